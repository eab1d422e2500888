"""RESTORE: MaPLe with a calibrator behind each encoder, and a loss that makes the prompt norms of
both encoders grow equally."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.base.registry import TRAINERS
from nerp.clip.device import in_float32
from nerp.clip.modules import quick_gelu
from nerp.settings.keys import number
from nerp.trainers.maple import MaPLe
from nerp.trainers.tensors import linear

# Encoder -> the calibrator's name; its ratio rho, and the share of the prompts' norm added to rho.
_ADAPTER = {"text": "text_adapter", "image": "visual_adapter"}
_RATIO = {"text": "text_cali_ratio", "image": "vis_cali_ratio"}
_GROWTH = {"text": 0.02, "image": 0.005}
_FIRST, _SECOND, _NORM = "{}.FFN.0", "{}.FFN.2", "{}.post_ln"


@TRAINERS.register("RESTORE")
class RESTORE(MaPLe):
    """Loss: CE(s f t^T, y) + FS_LOSS_R sum_l (|P_l^T P_l| / a_l - |Q_l^T Q_l| / b_l)^2. P_l and Q_l
    are the prompts of layer l = 2..J in the text and the image encoder. The norms are Frobenius
    norms; a_l and b_l are those before training.

    Learned: MaPLe's tensors, and {text,visual}_adapter: FFN.0 (D -> 4 D), FFN.2 (4 D -> D),
    post_ln. Training also changes two numbers, once: {text,vis}_cali_ratio. See
    docs/methods/restore.md.
    """

    node = "RESTORE"
    paper = "Yang et al., RESTORE: Towards Feature Shift, arXiv 2403.06136, 2024"
    defaults = {
        **MaPLe.defaults,
        "VIS_CALIB_R": number(0.1, least=0),
        "TEXT_CALIB_R": number(0.1, least=0),
        "FS_LOSS_R": number(1.0, least=0),
    }
    signature = (*MaPLe.signature, r"text_adapter\.FFN\.0\.weight")
    one_entropy = True
    fixed = tuple(_RATIO.values())

    def initial(self) -> dict[str, Tensor]:
        tensors, width = super().initial(), self.clip.embed_dim
        for kind, start in (("text", self.settings.TEXT_CALIB_R),
                            ("image", self.settings.VIS_CALIB_R)):
            name = _ADAPTER[kind]
            tensors |= {
                **linear(4 * width, width, _FIRST.format(name)),
                **linear(width, 4 * width, _SECOND.format(name)),
                f"{_NORM.format(name)}.weight": torch.ones(width),
                f"{_NORM.format(name)}.bias": torch.zeros(width),
                _RATIO[kind]: torch.tensor(start),
            }
        return tensors

    def prepare(self) -> None:
        super().prepare()
        self.first_norms: Tensor | None = None

    def ratio(self, kind: str) -> Tensor:
        """The calibration ratio rho of the text or the image encoder, a scalar."""
        return self.learned.get_buffer(_RATIO[kind])

    def calibrated(self, kind: str, u: Tensor) -> Tensor:
        """u + rho F(u) [..., D]; F is a LayerNorm followed by two linear layers."""
        u, norm = u.float(), _NORM.format(_ADAPTER[kind])
        h = F.layer_norm(u, u.shape[-1:], self.parameter(f"{norm}.weight"),
                         self.parameter(f"{norm}.bias"))
        h = quick_gelu(self.apply_linear(_FIRST.format(_ADAPTER[kind]), h))
        return u + self.ratio(kind) * self.apply_linear(_SECOND.format(_ADAPTER[kind]), h)

    def text_output(self, u: Tensor) -> Tensor:
        return self.calibrated("text", u)

    def image_output(self, u: Tensor) -> Tensor:
        return self.calibrated("image", u)

    def vision_tokens(self) -> Mapping[int, Tensor]:
        """Layer -> vision tokens, in float32 whatever the precision. The encoder casts them."""
        with in_float32(self.clip.device):
            return super().vision_tokens()

    def norms(self, vision_tokens: Mapping[int, Tensor]) -> Tensor:
        """Norms [2, J - 1]: |P_l^T P_l| of the text encoder's prompts, then |Q_l^T Q_l| of the
        image encoder's."""
        text = self.text_tokens()
        both = [[tokens[layer].float() for layer in text] for tokens in (text, vision_tokens)]
        with in_float32(self.clip.device):
            # |P^T P| = |P P^T|, and the latter matrix is only K by K.
            return torch.stack([torch.stack([(t @ t.mT).norm() for t in own]) for own in both])

    def prepare_training(self) -> None:
        if self.deep_layers:
            with torch.no_grad():
                self.first_norms = self.norms(self.vision_tokens())

    def training_state(self) -> dict[str, Tensor]:
        return {} if self.first_norms is None else {"first_norms": self.first_norms}

    def resume_training(self, state: Mapping[str, Tensor]) -> None:
        self.first_norms = state.get("first_norms")

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.first_norms is None:
            self.prepare_training()
        text, vision_tokens = self.class_features(), self.vision_tokens()
        image = self.tuned_image(self.clip.image_state(images), vision_tokens)
        entropy = self.cross_entropy(self.similarity(image, text), labels)
        if self.first_norms is None:
            return entropy
        grown = self.norms(vision_tokens) / self.first_norms
        return entropy + float(self.settings.FS_LOSS_R) * (grown[0] - grown[1]).square().sum()

    @torch.no_grad()
    def end_epoch(self, epoch: int) -> None:
        if epoch == self.cfg.OPTIM.MAX_EPOCH // 3 and self.deep_layers:
            means = self.norms(self.vision_tokens()).mean(1)
            for kind, mean in zip(_RATIO, means, strict=True):
                self.ratio(kind).add_(_GROWTH[kind] * mean)
