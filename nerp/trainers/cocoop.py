"""CoCoOp: CoOp's context, shifted by each image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nerp.base.registry import TRAINERS
from nerp.trainers.base import context_settings
from nerp.trainers.coop import CoOp
from nerp.trainers.tensors import Tensors, linear

# In evaluation the prompts of several images are encoded together, up to about this many tokens.
_TOKENS_AT_ONCE = 2**16


@TRAINERS.register("CoCoOp")
class CoCoOp(CoOp):
    """ctx_b = ctx + h(f_b): every image has its own class features.

    Loss: CE(s f_b · t_bc). Learned: ctx [K, W_t], meta_net (D -> D / 16 -> W_t).
    See docs/methods/cocoop.md.
    """

    node = "COCOOP"
    paper = "Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022"
    defaults = context_settings(16, "")
    signature: tuple[str, ...] = ("ctx", r"meta_net\.linear1\.weight", r"meta_net\.linear2\.weight")
    shape_settings = ("N_CTX", "CTX_INIT")
    text_by_image = True
    class_specific = False
    position = "end"

    @classmethod
    def fits(cls, tensors: Tensors) -> bool:
        return len(tensors["meta_net.linear2.weight"]) == tensors["ctx"].shape[-1]

    def initial(self) -> dict[str, Tensor]:
        width, bottleneck = self.clip.embed_dim, self.clip.embed_dim // 16
        return {
            **super().initial(),
            **linear(bottleneck, width, "meta_net.linear1"),
            **linear(self.clip.text.width, bottleneck, "meta_net.linear2"),
        }

    def conditional_features(self, image_features: Tensor) -> Tensor:
        """Class features t [B, C, D] for images with the features [B, D]."""
        hidden = F.relu(self.apply_linear("meta_net.linear1", image_features))
        shift = self.apply_linear("meta_net.linear2", hidden)
        return self.text_features(self.prompts, self.parameter("ctx") + shift[:, None])

    def class_features(self, images: Tensor | None = None) -> Tensor:
        assert images is not None  # `text_by_image`
        return self.conditional_features(self.image_features(images))

    def feature_classifier(self) -> Callable[[Tensor], Tensor]:
        classes, length = self.prompts.ids.shape
        at_once = max(1, _TOKENS_AT_ONCE // (classes * length))

        def logits(features: Tensor) -> Tensor:
            traced = torch.compiler.is_compiling()  # the graph must fit any number of images
            return torch.cat([
                self.similarity(part, self.conditional_features(part))
                for part in ([features] if traced else features.split(at_once))
            ])

        return logits
