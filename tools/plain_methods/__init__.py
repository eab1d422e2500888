"""Every method written out plainly: open_clip's own blocks, 77 tokens per text, nothing shared.

It is the reference for the tests of `nerp.trainers`, and side B of tools/bench.py. Each class
takes an open_clip model, prompts and the learned tensors under their checkpoint names, and
recomputes everything at every call, frozen CLIP included. Numerics: the methods' papers; for MMA's
gradient, see `PlainMMA.loss`.
"""

from plain_methods.adapted import PlainCLIPAdapter, PlainPromptKD, PlainTaskRes
from plain_methods.adapter import PlainMMA
from plain_methods.blocks import PlainCLIPLoRA, PlainMoCoOp
from plain_methods.boosted import (
    PlainCasPL,
    PlainCasPLCoCoOp,
    PlainCasPLCoOp,
    PlainCasPLMaPLe,
    PlainCasPLPromptSRC,
)
from plain_methods.context import (
    PlainCoCoOp,
    PlainCoOp,
    PlainCoOpSAR,
    PlainKgCoOp,
    PlainProGrad,
    PlainTCP,
    plain_alignment,
)
from plain_methods.deep import (
    PlainBiomedCoOp,
    PlainCoPrompt,
    PlainMaPLe,
    PlainPromptSRC,
    PlainRESTORE,
)
from plain_methods.family import PlainDeCoOp, PlainMaPLeDePT, PlainPLOT, PlainPLOTPP
from plain_methods.inserted import PlainANPrompt, PlainMMRL, PlainMMRLpp
from plain_methods.plain import PlainMethod, padded

PLAIN = {
    "ZeroshotCLIP": PlainMethod,
    "CoOp": PlainCoOp,
    "CoCoOp": PlainCoCoOp,
    "PromptSRC": PlainPromptSRC,
    "CoOp_SAR": PlainCoOpSAR,
    "KgCoOp": PlainKgCoOp,
    "ProGrad": PlainProGrad,
    "CLIPAdapter": PlainCLIPAdapter,
    "TaskRes": PlainTaskRes,
    "PromptKD": PlainPromptKD,
    "TCP": PlainTCP,
    "MaPLe": PlainMaPLe,
    "CoPrompt": PlainCoPrompt,
    "BiomedCoOp": PlainBiomedCoOp,
    "RESTORE": PlainRESTORE,
    "CLIPLoRA": PlainCLIPLoRA,
    "MoCoOp": PlainMoCoOp,
    "CasPL": PlainCasPL,
    "CasPL_CoOp": PlainCasPLCoOp,
    "CasPL_CoCoOp": PlainCasPLCoCoOp,
    "CasPL_MaPLe": PlainCasPLMaPLe,
    "CasPL_PromptSRC": PlainCasPLPromptSRC,
    "MMA": PlainMMA,
    "MMRL": PlainMMRL,
    "MMRLpp": PlainMMRLpp,
    "ANPrompt": PlainANPrompt,
    "MaPLe_DePT": PlainMaPLeDePT,
    "PLOT": PlainPLOT,
    "PLOTPP": PlainPLOTPP,
    "DeCoOp": PlainDeCoOp,
}

__all__ = ["PLAIN", "PlainMMRL", "padded", "plain_alignment"]
