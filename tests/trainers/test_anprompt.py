"""ANPrompt: its clustering, its sentences, what is said where there are none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GOLDEN, TEMPLATE, eurosat_classes, golden_config
from test_golden import FEATURE, golden, tensors

from nerp.base.errors import NerpError
from nerp.base.registry import TRAINERS
from nerp.clip.templates import ENSEMBLE_60
from nerp.clip.tokenizer import tokenize
from nerp.trainers.anprompt import noise_prompts


def build(clip, which="base", **settings):
    cfg = golden_config()
    cfg.TRAINER.ANPROMPT.update(settings)
    return TRAINERS["ANPrompt"](cfg, clip, eurosat_classes(which))


@pytest.mark.parametrize("name", ["many", "few"])
def test_the_clustering(name):
    z = golden("ANPrompt")
    found = noise_prompts(torch.tensor(z[f"function/{name}"]), int(z["function/count"]))
    torch.testing.assert_close(found, torch.tensor(z[f"function/{name}_centres"]), **FEATURE)


def test_fresh_noise_prompts_are_clustered_from_the_trained_classes(golden_clip, monkeypatch):
    z = golden("ANPrompt")
    monkeypatch.setattr("random.Random.randrange", lambda self, most: {3: 1}.get(most, 2))
    trainer = build(golden_clip)
    drawn = trainer.learned.get_buffer("prompt_learner.drawn").tolist()
    weak = trainer.weak_features(*z["param/prompt_learner.drawn"].tolist())
    torch.testing.assert_close(weak, torch.tensor(z["base/f_w"]), **FEATURE)
    torch.testing.assert_close(noise_prompts(weak, 3), torch.tensor(z["noise_prompts"]), **FEATURE)
    kept = trainer.learned.get_buffer("prompt_learner.noise_prompts")
    torch.testing.assert_close(kept, noise_prompts(trainer.weak_features(*drawn), 3), **FEATURE)


def test_noise_prompts_and_drawn_sentences_are_not_trained(golden_clip):
    trainer = build(golden_clip)
    trained = {name for name, _ in trainer.learned.named_parameters()}
    kept = {"prompt_learner.noise_prompts", "prompt_learner.drawn"}
    assert set(trainer.learned.state_dict()) - trained == kept


def test_the_seed_decides_which_sentences_are_drawn(golden_clip):
    def drawn(seed):
        cfg = golden_config()
        cfg.SEED = seed
        trainer = TRAINERS["ANPrompt"](cfg, golden_clip, eurosat_classes("base"))
        return trainer.learned.get_buffer("prompt_learner.drawn").tolist()

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in range(12)}) > 1


def test_without_files_templates_stand_in_and_it_says_so(golden_clip):
    trainer = build(golden_clip, MAIN_TEXTS="", NOISE_TEXTS="")
    main, noise = trainer.sentences()
    name = trainer.classes.names[0]
    assert main[0] == [TEMPLATE.format(name)] and noise[0][3] == ENSEMBLE_60[3].format(name)
    assert "MAIN_TEXTS and NOISE_TEXTS; no file was given" in trainer.substitute
    assert "of NOISE_TEXTS;" in build(golden_clip, NOISE_TEXTS="").substitute
    assert build(golden_clip).substitute == ""


def test_other_classes_have_sentences_of_their_own_and_the_noise_prompts_stay(golden_clip):
    cfg = golden_config()
    base = TRAINERS["ANPrompt"](
        cfg, golden_clip, eurosat_classes("base"), tensors("ANPrompt", "param")
    )
    novel = base.for_classes(eurosat_classes("new"))
    wanted = torch.tensor(golden("ANPrompt")["new/weak_text_features"])
    torch.testing.assert_close(novel.weak_class_features(), wanted, **FEATURE)
    assert novel.learned is base.learned


def test_a_class_without_sentences_is_named(golden_clip, tmp_path):
    content = json.loads((GOLDEN / "ANPrompt_noise.json").read_text())
    del content["Forest"]
    file = tmp_path / "noise.json"
    file.write_text(json.dumps(content))
    with pytest.raises(NerpError, match="TRAINER.ANPROMPT.NOISE_TEXTS: .* class 'Forest'"):
        build(golden_clip, NOISE_TEXTS=str(file))


def test_a_folder_holds_a_file_a_dataset(golden_clip, tmp_path):
    (tmp_path / "EuroSAT.json").write_text((GOLDEN / "ANPrompt_main.json").read_text())
    cfg = golden_config()
    cfg.TRAINER.ANPROMPT.MAIN_TEXTS = str(tmp_path)
    classes = replace(eurosat_classes("base"), dataset="EuroSAT")
    there = TRAINERS["ANPrompt"](cfg, golden_clip, classes).sentences()[0]
    assert there == build(golden_clip).sentences()[0]


def test_long_sentences_are_cut_with_their_end(golden_clip):
    ids = tokenize("river " * 200, cut=True)
    assert len(ids) == 77 and ids[-1] == 49407
    assert np.isfinite(golden_clip.text_features(["river " * 200], cut=True).numpy()).all()
