"""Every configuration key and its default."""

from yacs.config import CfgNode as CN

from nerp.registry import TRAINERS


def default_config() -> CN:
    """The defaults of every key, the methods' own nodes included."""
    cfg = CN()
    cfg.OUTPUT_DIR = ""
    cfg.SEED = 1
    cfg.USE_CUDA = True  # ignored where there is no CUDA device
    cfg.TASK = "B2N"  # B2N, CD or FS: see nerp/protocols.py

    cfg.DATASET = dataset_defaults()

    cfg.INPUT = CN()
    cfg.INPUT.SIZE = (224, 224)
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]
    cfg.INPUT.PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]
    cfg.INPUT.TRANSFORMS = ["random_resized_crop", "random_flip", "normalize"]
    cfg.INPUT.RRCROP_SCALE = (0.08, 1.0)
    cfg.INPUT.EXACT_JPEG = True  # False: test images from draft decoding, faster, other pixels

    cfg.DATALOADER = CN()
    cfg.DATALOADER.TRAIN_X = CN({"BATCH_SIZE": 32})
    cfg.DATALOADER.TEST = CN({"BATCH_SIZE": 100})
    cfg.DATALOADER.NUM_WORKERS = 8  # no more are started than the machine has cores
    cfg.DATALOADER.CACHE_MB = 4096  # decoded training images held in memory, in MiB

    cfg.MODEL = CN()
    cfg.MODEL.BACKBONE = CN()
    cfg.MODEL.BACKBONE.NAME = "ViT-B/16"
    cfg.MODEL.BACKBONE.PATH = ""  # a file of weights instead of the published ones
    cfg.MODEL.BACKBONE.ACTIVATION = "auto"  # auto, quick_gelu or gelu

    cfg.OPTIM = CN()
    cfg.OPTIM.NAME = "sgd"  # sgd or adamw
    cfg.OPTIM.LR = 0.002
    cfg.OPTIM.MAX_EPOCH = 10
    cfg.OPTIM.WEIGHT_DECAY = 5e-4
    cfg.OPTIM.MOMENTUM = 0.9
    cfg.OPTIM.ADAM_BETA1 = 0.9
    cfg.OPTIM.ADAM_BETA2 = 0.999
    cfg.OPTIM.LR_SCHEDULER = "cosine"
    cfg.OPTIM.WARMUP_EPOCH = 0
    cfg.OPTIM.WARMUP_TYPE = "constant"
    cfg.OPTIM.WARMUP_CONS_LR = 1e-5

    cfg.TRAIN = CN({"PRINT_FREQ": 10, "CHECKPOINT_FREQ": 0})
    cfg.TEST = CN({"NO_TEST": False, "SPLIT": "test"})

    cfg.NERP = CN()
    cfg.NERP.TAU = 0.0  # least prior advantage, in logits, of the class that is given up
    cfg.NERP.THRES = 2.0  # largest logit margin that still counts as weak evidence
    cfg.NERP.RESIDUAL_TEXT_PRIOR = False
    cfg.NERP.RESIDUAL_IMAGE_PRIOR = False
    cfg.NERP.C_TEXT = 1.0  # the residuals' coefficients
    cfg.NERP.C_IMAGE = 1.0
    cfg.NERP.FLIP_BY_PROB = False
    cfg.NERP.FLIP_BY_ENTROPY = False
    cfg.NERP.ENTROPY_THRES = 1.0
    cfg.NERP.FLIP_RULE = "OR"
    cfg.NERP.PAIRS = "text"  # text, reference, train, unlabelled, labels or bundle
    cfg.NERP.PAIRS_FILE = ""  # of NERP.PAIRS bundle
    cfg.NERP.PAIRS_NEIGHBOURS = 2  # partners a class; 0: as many as the quantile leaves
    cfg.NERP.PAIRS_QUANTILE = 0.0  # pairs scoring below this quantile are left out
    cfg.NERP.THRESHOLDS = "published"  # published, default or calibrated
    cfg.NERP.REFERENCE_IMAGE = ""
    cfg.NERP.ON_BASE = False  # whether classes that were trained on are corrected too

    cfg.TRAINER = CN({"NAME": ""})
    for name in TRAINERS.names():
        method = TRAINERS[name]
        cfg.TRAINER[method.node] = CN(dict(method.defaults))
    return cfg


def dataset_defaults() -> CN:
    """The defaults of a dataset card."""
    node = CN()
    node.NAME = ""
    node.ROOT = "data"
    node.NUM_SHOTS = 16  # 0: every training image
    node.SUBSAMPLE_CLASSES = "all"  # all, base or new
    node.DIRECTORY = ""
    node.LAYOUT = "json_split"
    node.IMAGE_FOLDER = ""
    node.SPLIT_FILE = ""
    node.CLASS_FILE = ""  # names the classes, in layouts that list them apart from the images
    node.NUM_CLASSES = 0
    node.SPLIT_SIZES = [0, 0, 0]  # train, val, test; 0: not stated
    node.TEMPLATE = "a photo of a {}."
    node.NEUTRAL = "a photo of an object."
    node.REFERENCE = ""  # whose mean training image NeRP shows; "": its own
    node.CITATION = ""
    node.LICENCE = ""
    node.SOURCES = []
    return node
