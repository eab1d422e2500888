"""CasPL's adapting phase: CoOp, CoCoOp, MaPLe and PromptSRC with frozen boosting prompts.

Wu et al., ECCV 2024, section 3.3; see docs/methods/caspl_adapting.md.
"""

from torch import Tensor

from nerp.base.registry import TRAINERS
from nerp.settings.keys import choice, file, whole
from nerp.trainers.boosted import BoostedContext, BoostedDeep
from nerp.trainers.caspl import CTX, FIRST, PATTERNS, random_boosting
from nerp.trainers.cocoop import CoCoOp
from nerp.trainers.coop import CoOp
from nerp.trainers.maple import MaPLe
from nerp.trainers.promptsrc import PromptSRC

# A CasPL checkpoint or its run directory; only training reads it. Epoch 0 means the newest.
_SETTINGS = {"BOOSTING": file(""), "BOOSTING_EPOCH": whole(20, 0)}
_SIGNATURE = (PATTERNS[0], PATTERNS[1], r"prompt_learner\.ctx")


@TRAINERS.register("CasPL_CoOp")
class CasPLCoOp(BoostedContext, CoOp):
    """CoOp's context in front of the boosting tokens. Loss: CE. Learned: prompt_learner.ctx
    [m, W_t]. See docs/methods/caspl_adapting.md."""

    node = "CASPL_COOP"
    published = ("COOP",)
    defaults = {**CoOp.defaults, "CLASS_TOKEN_POSITION": choice("end"), **_SETTINGS}
    signature = _SIGNATURE


@TRAINERS.register("CasPL_CoCoOp")
class CasPLCoCoOp(BoostedContext, CoCoOp):
    """CoCoOp's context in front of the boosting tokens. The context is shifted by h of the boosted
    image features; the boosting tokens are not shifted. Loss: CE. Learned, below prompt_learner:
    ctx [m, W_t], meta_net. See docs/methods/caspl_adapting.md."""

    node = "CASPL_COCOOP"
    published = ("COCOOP",)
    defaults = {**CoCoOp.defaults, **_SETTINGS}
    signature = (*_SIGNATURE, *(rf"prompt_learner\.{name}" for name in CoCoOp.signature[1:]))


@TRAINERS.register("CasPL_MaPLe")
class CasPLMaPLe(BoostedDeep, MaPLe):
    """MaPLe's prompts beside the boosting tokens. Loss: CE. Learned: MaPLe's tensors. See
    docs/methods/caspl_adapting.md."""

    node = "CASPL_MAPLE"
    published = ("MAPLE",)
    defaults = {**MaPLe.defaults, **_SETTINGS}
    signature = (*_SIGNATURE, r"prompt_learner\.proj\.weight")

    @property
    def n_image(self) -> int:
        return self.n_ctx


@TRAINERS.register("CasPL_PromptSRC")
class CasPLPromptSRC(BoostedDeep, PromptSRC):
    """PromptSRC's prompts beside the boosting tokens. Each encoder has one depth J for both kinds.
    Loss and averaging: PromptSRC's; its frozen CLIP has no boosting tokens. Learned: PromptSRC's
    tensors. See docs/methods/caspl_adapting.md."""

    node = "CASPL_PROMPTSRC"
    published = ("PROMPTSRC",)
    defaults = {**PromptSRC.defaults, **_SETTINGS}
    # Published files of CasPL_CoOp contain this method's names too, but unused. Both signatures
    # therefore have equally many patterns, and the file's folder decides which method it is.
    signature = (PATTERNS[0], r"image_encoder\.VPT", r"prompt_learner\.ctx")
    counts_differ = True

    def check(self) -> None:
        """Accept any J: beyond an encoder's number of layers it has no effect."""

    def first_boosting(self) -> dict[str, Tensor]:
        """The boosting tensors of layers 1..J: the checkpoint's, and random ones in the layers
        that the checkpoint does not have."""
        found = super().first_boosting()
        drawn = random_boosting(self.clip, self.settings, len(found[FIRST]), len(found[CTX]))
        return {name: found.get(name, tensor) for name, tensor in drawn.items()}

    @property
    def n_image(self) -> int:
        return int(self.settings.N_CTX_VISION)

    @property
    def first_gap(self) -> int:
        return 0
