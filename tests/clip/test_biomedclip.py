"""BiomedCLIP's form of a backbone, timm's vision transformer beside a BERT, against open_clip's own
forward with random weights and a made vocabulary."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import eurosat_classes, golden_config

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.backbones import BIOMEDCLIP, find_backbone, reason_against
from nerp.clip.bert import BertCLIP, Sizes
from nerp.clip.model import build_clip
from nerp.clip.tokenizer import build_prompts
from nerp.clip.wordpiece import make_tokenizer
from nerp.trainers.summary import backbone_row

transformers = pytest.importorskip("transformers")
LETTERS = [chr(ord("a") + i) for i in range(26)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS),
              "photo", "of", "satellite", "land", "crop", "river", "forest", ".", ",", "0"]
TEXTS = ["a photo of a River.", "Forests, permanent CROP\n land &amp; x_y", "é [foo] photo",
         "a photo of a very long list of satellite photos of a river, a forest and land."]
SMALL = Sizes(embed=64, vision_width=64, vision_layers=2, patch=8, grid=4, width=128, layers=3,
              inner=256, hidden=96, vocabulary=len(VOCABULARY), positions=300)
# Those that learn a text context over a frozen image encoder, and zero-shot CLIP.
FITTING = ["BiomedCoOp", "CoCoOp", "CoOp", "KgCoOp", "ProGrad", "ZeroshotCLIP", "ZeroshotCLIP2"]


@pytest.fixture(scope="module")
def open_clips(tmp_path_factory):
    """open_clip's model in BiomedCLIP's configuration but for its sizes, and its file with the
    vocabulary beside it."""
    from open_clip.model import CustomTextCLIP

    folder = tmp_path_factory.mktemp("biomedclip")
    transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=128, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=512,
    ).save_pretrained(folder)
    config = copy.deepcopy(find_backbone(BIOMEDCLIP).config)
    config["embed_dim"] = 64
    config["vision_cfg"]["timm_model_name"] = "vit_tiny_patch16_224"
    config["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    torch.manual_seed(0)
    model = CustomTextCLIP(**config).eval().requires_grad_(False)
    for parameter in model.parameters():  # biases and LayerNorms begin at values that hide mistakes
        parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return model, folder / "open_clip_pytorch_model.bin"


@pytest.fixture
def clip(open_clips):
    return build_clip("", str(open_clips[1]), "auto", "fp32", torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of 32-pixel images in the same form."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(1)
    state = {("" if name.startswith(("visual.", "logit")) else "text.") + name:
             0.1 * torch.randn(tensor.shape)
             for name, tensor in BertCLIP(SMALL).state_dict().items()}
    state |= {"logit_scale": torch.tensor(4.45), "text.transformer.embeddings.position_ids":
              torch.arange(300)[None]}
    torch.save(state, folder / "model.bin")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder / "model.bin"


def published(texts):
    """[C, 256] token ids as Hugging Face's tokenizer makes them after open_clip's cleaning."""
    from open_clip.tokenizer import get_clean_fn

    tokenizer = transformers.BertTokenizerFast(
        vocab={token: place for place, token in enumerate(VOCABULARY)}, do_lower_case=True)
    clean = get_clean_fn("whitespace")
    return tokenizer([clean(text) for text in texts], return_tensors="pt", max_length=256,
                     padding="max_length", truncation=True).input_ids


def test_texts_become_the_ids_that_open_clip_gives_the_model():
    tokenizer = make_tokenizer({token: place for place, token in enumerate(VOCABULARY)})
    prompts = build_prompts(TEXTS, tokenizer=tokenizer)
    wanted = published(TEXTS)
    assert torch.equal(prompts.ids, wanted[:, : prompts.ids.shape[1]])
    assert not wanted[:, prompts.ids.shape[1]:].any()
    with pytest.raises(NerpError, match="258 tokens, BERT reads 256"):
        build_prompts(["river " * 256], tokenizer=tokenizer)


def test_features_are_those_of_open_clips_own_forward(clip, open_clips):
    model, images = open_clips[0], torch.randn(3, 3, 224, 224)
    wanted = F.normalize(model.encode_image(images), dim=-1)
    torch.testing.assert_close(clip.image_features(images), wanted, atol=1e-6, rtol=0)
    text = clip.text_features(TEXTS)
    torch.testing.assert_close(text, model.encode_text(published(TEXTS)), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(clip.scale, model.logit_scale.exp().item(), rtol=1e-6)


@pytest.mark.parametrize("method", ["CoOp", "CoCoOp", "KgCoOp", "BiomedCoOp"])
def test_a_context_stands_over_the_word_embeddings(method, clip, open_clips):
    """Before positions and types are added, in the prompt at its full length."""
    cfg = golden_config()
    cfg.TRAINER.BIOMEDCOOP.TEXTS = ""
    torch.manual_seed(0)
    trainer = TRAINERS[method](cfg, clip, eurosat_classes("base"))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        found = trainer.class_features(image)
        ctx = trainer.learned.state_dict().get("ctx", trainer.learned.state_dict().get(
            "prompt_learner.ctx"))
        if method == "CoCoOp":
            net = trainer.image_features(image)
            net = F.relu(trainer.apply_linear("meta_net.linear1", net))
            ctx, found = ctx + trainer.apply_linear("meta_net.linear2", net), found[0]
        text = open_clips[0].text
        prefix = trainer.words or " ".join(["X"] * len(ctx))
        ids = published([f"{prefix} {name}." for name in trainer.classes.names])
        x = text.transformer.embeddings.word_embeddings(ids)
        x[:, 1 : 1 + len(ctx)] = ctx
        out = text.transformer(inputs_embeds=x, attention_mask=(ids != 0).long())
        wanted = F.normalize(text.proj(out.last_hidden_state[:, 0]), dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("count", "words"), [(4, "a photo of a"), (2, "")])
def test_over_a_bert_words_start_four_context_vectors_or_none(count, words, clip):
    cfg = golden_config()
    cfg.TRAINER.BIOMEDCOOP.N_CTX = count
    trainer = TRAINERS["BiomedCoOp"](cfg, clip, eurosat_classes("base"))
    assert trainer.words == words


@pytest.mark.parametrize("method", TRAINERS.names())
def test_methods_that_reach_into_layers_are_refused_before_they_begin(method, clip):
    def build():
        return TRAINERS[method](golden_config(), clip, eurosat_classes("base"))

    if method in FITTING:
        assert build().class_features is not None
    elif TRAINERS[method].edits:
        with pytest.raises(NerpError, match="this method changes layers of CLIP's (text|image) "
                                            "encoder; this backbone's is (a BERT|timm's vision)"):
            build()


@pytest.mark.parametrize("method", ["CoOp", "CoCoOp", "KgCoOp", "BiomedCoOp", "CoOp_SAR"])
def test_it_trains_tests_and_takes_nerp(method, nerp, eurosat_root, small, tmp_path):
    command = ["--root", eurosat_root, "--dataset", "eurosat", "--seed", "1"]
    opts = ["MODEL.BACKBONE.NAME", BIOMEDCLIP, "MODEL.BACKBONE.PATH", small, "DATASET.NUM_SHOTS",
            "2", "OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"]
    status, _, error = nerp("train", "--trainer", method, *command, "--output-dir",
                            tmp_path / "train", *opts, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert status == 0, error
    status, out, error = nerp("test", "--trainer", f"{method}_NeRP", *command, "--model-dir",
                              tmp_path / "train", "--output-dir", tmp_path / "test", *opts,
                              "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0, error
    assert json.loads((tmp_path / "test" / "result.json").read_text())["total"] == 15


def test_zero_shot_with_nerp(nerp, eurosat_root, small, tmp_path):
    status, out, error = nerp(
        "test", "--trainer", "ZeroshotCLIP_NeRP", "--root", eurosat_root, "--dataset", "eurosat",
        "--output-dir", tmp_path, "MODEL.BACKBONE.PATH", small, "DATASET.SUBSAMPLE_CLASSES", "new")
    assert status == 0, error
    assert "timm's vision transformer and a BERT, D = 64" in out


def spoiled(small, tmp_path, vocabulary=None, **tensors):
    """A copy of the file with other tensors, and the vocabulary beside it."""
    state = torch.load(small)
    torch.save({**state, **tensors}, tmp_path / "model.bin")
    if vocabulary is not None:
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    return str(tmp_path / "model.bin")


@pytest.mark.parametrize(("vocabulary", "said"), [
    (None, "put vocab.txt of the same repository beside it"),
    (VOCABULARY[:-1], f"{len(VOCABULARY) - 1} tokens; model.bin has embeddings of"),
    (["river", "forest"], r"not a vocabulary of BERT: it lacks \[PAD\]"),
    ([*VOCABULARY[:-1], "a"], "a token stands in it twice"),
])
def test_a_vocabulary_that_is_missing_or_anothers_is_named(vocabulary, said, small, tmp_path):
    with pytest.raises(NerpError, match=said):
        build_clip("", spoiled(small, tmp_path, vocabulary), "auto", "fp32", torch.device("cpu"))


@pytest.mark.parametrize(("tensors", "said"), [
    ({"text.proj.0.weight": torch.zeros(96, 64)}, "text.*|proj.0.weight is"),
    ({"visual.trunk.blocks.0.ls1.gamma": torch.zeros(64)}, "it holds visual.trunk.blocks.0.ls1"),
    ({"text.transformer.embeddings.token_type_embeddings.weight": torch.zeros(1, 128)},
     "not CLIP weights .its sizes are of no BERT"),
    ({"text.transformer.embeddings.LayerNorm.bias": torch.full((128,), torch.nan)},
     "numbers that are not finite"),
])
def test_tensors_of_another_model_are_refused(tensors, said, small, tmp_path):
    with pytest.raises(NerpError, match=said):
        build_clip("", spoiled(small, tmp_path, VOCABULARY, **tensors), "auto", "fp32",
                   torch.device("cpu"))


def test_the_vocabulary_is_part_of_what_numbers_depend_on(nerp, eurosat_root, small, tmp_path):
    digests = set()
    for vocabulary in (VOCABULARY, [*VOCABULARY[:-1], "1"]):
        file = spoiled(small, tmp_path, vocabulary)
        digests.add(build_clip("", file, "auto", "fp32", torch.device("cpu"))[0].digest)
        status, _, error = nerp(
            "test", "--trainer", "ZeroshotCLIP", "--root", eurosat_root, "--dataset", "eurosat",
            "--output-dir", tmp_path / "run", "MODEL.BACKBONE.PATH", file)
    assert len(digests) == 2
    assert status == 1 and "MODEL.BACKBONE.PATH" in error and "--overwrite" in error


def test_it_is_known_by_name_without_a_network(nerp):
    status, out, error = nerp("backbones", BIOMEDCLIP)
    assert status == 0, error
    assert [word in out for word in ("224", "512", "12/12")] == [True] * 3
    methods = backbone_row(BIOMEDCLIP).methods
    assert set(FITTING) <= set(methods)
    assert not any(TRAINERS[method].edits for method in methods)
    changed = find_backbone(BIOMEDCLIP).config | {"embed_dim": 256}
    assert "timm's vit_base_patch16_224" in reason_against(changed)
