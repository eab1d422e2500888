"""Methods and datasets as papers write them."""

from nerp.settings.protocols import DEPT_SUFFIX, NERP_SUFFIX, SAR_SUFFIX

# Names that differ from the registry's.
_METHODS = {
    "ZeroshotCLIP": "CLIP", "MMRLpp": "MMRL++", "CLIPLoRA": "CLIP-LoRA", "LPpp": "LP++",
    "TipAdapter": "Tip-Adapter", "TipAdapterF": "Tip-Adapter-F", "TFUP_T": "TFUP-T",
    "PLOTPP": "PLOT++",
    **{f"CasPL_{name}": f"{name} + CasPL" for name in ("CoOp", "CoCoOp", "MaPLe", "PromptSRC")},
}
_DATASETS = {"DescribableTextures": "DTD", "OxfordFlowers": "Flowers102",
             "ImageNetV2": "ImageNet-V2", "ImageNetSketch": "ImageNet-Sketch",
             "ImageNetA": "ImageNet-A", "ImageNetR": "ImageNet-R"}
# Suffixes of names, the last one of a name first.
_ADDED = (NERP_SUFFIX, SAR_SUFFIX, DEPT_SUFFIX)


def method_name(trainer: str) -> str:
    """CoOp_SAR_NeRP -> CoOp + SAR + NeRP."""
    for suffix in _ADDED:
        if trainer.endswith(suffix):
            return f"{method_name(trainer.removesuffix(suffix))} + {suffix[1:]}"
    return _METHODS.get(trainer, trainer)


def as_in_papers(label: str) -> str:
    """A label of a row or column as papers write it. Its first word is a trainer or a dataset."""
    first, *rest = label.split(" ")
    return " ".join([_DATASETS.get(first) or method_name(first), *rest])
