"""The list of runs: complete, in order, with the published configurations."""

import argparse
import itertools
import shlex
from functools import cache

import pytest

from nerp.base.errors import NerpError
from nerp.commands import test as test_command
from nerp.commands import train as train_command
from nerp.experiments.plan import check_data, plan
from nerp.experiments.selection import Selection, parse, read_selection
from nerp.files.yaml_file import load_yaml
from nerp.settings.cards import find_method_file, shipped_cards
from nerp.settings.catalogue import (
    catalogue,
    config_name,
    methods,
    published_methods,
    serves,
    trains_on_all_classes,
    trains_without_labels,
)
from nerp.settings.resolve import Request, resolve

ELEVEN = ["imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101",
          "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"]
VARIANTS = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
# Those of which a sweep has other runs than of the rest; see the tests below.
APART = ("PromptKD", "TaskRes")
LEARNING = [name for name in methods() if name not in ("ZeroshotCLIP", *APART)]
LABELLED = [name for name in LEARNING if not trains_without_labels(name)]
TESTED = ["ZeroshotCLIP", *LEARNING, *(f"{name}_NeRP" for name in LEARNING)]
WHOLE = tuple(name for name in published_methods() if not name.startswith(APART))


@cache
def parser(name: str) -> argparse.ArgumentParser:
    """Of a command; built once, since thousands of lines are read."""
    made = argparse.ArgumentParser()
    {"train": train_command, "test": test_command}[name].add_arguments(made)
    return made


def parsed(command: str) -> argparse.Namespace:
    """A printed command line, read by the command's own parser."""
    program, name, *rest = shlex.split(command)
    assert program == "nerp"
    args = parser(name).parse_args(rest)
    args.phase = name
    args.options = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    return args


def keys(runs):
    """(phase, trainer, dataset, classes, seed) of each run."""
    for run in runs:
        args = parsed(run.command)
        yield (args.phase, args.trainer, args.dataset, args.options["DATASET.SUBSAMPLE_CLASSES"],
               args.seed)


def drawn(name: str, seed: int) -> bool:
    """Whether a seed is run: of zero-shot CLIP, which draws nothing, the first alone."""
    return name != "ZeroshotCLIP" or seed == 1


def test_the_published_base_to_novel_experiment_is_complete():
    wanted = {("train", name, dataset, "base", seed)
              for name, dataset, seed in itertools.product(LABELLED, ELEVEN, (1, 2, 3))}
    wanted |= {("train", "CasPL", dataset, "all", 1) for dataset in ELEVEN}
    wanted |= {("test", name, dataset, classes, seed) for name, dataset, classes, seed
               in itertools.product(TESTED, ELEVEN, ("base", "new"), (1, 2, 3))
               if drawn(name, seed)}
    runs = plan(Selection("base_to_novel", methods=WHOLE))
    assert len({run.directory for run in runs}) == len(runs)
    assert set(keys(runs)) == wanted


def test_the_published_cross_dataset_experiment_is_complete():
    wanted = {("train", name, "imagenet", "all", seed)
              for name, seed in itertools.product(LABELLED, (1, 2, 3))}
    wanted |= {("train", "CasPL", "imagenet", "all", 1)}
    wanted |= {("test", name, dataset, "all", seed) for name, dataset, seed
               in itertools.product(TESTED, ELEVEN + VARIANTS, (1, 2, 3)) if drawn(name, seed)}
    assert set(keys(plan(Selection("cross_dataset", methods=WHOLE)))) == wanted


def test_the_published_few_shot_experiment_is_complete():
    runs = plan(Selection("few_shot", methods=tuple(LEARNING)))
    found = {(*key, parsed(run.command).options["DATASET.NUM_SHOTS"])
             for key, run in zip(keys(runs), runs, strict=True)}
    wanted = {("train", name, dataset, "all", seed, shots) for name, dataset, seed, shots
              in itertools.product(LABELLED, ELEVEN, (1, 2, 3), ["1", "2", "4", "8", "16"])}
    wanted |= {("train", "CasPL", dataset, "all", 1, "-1") for dataset in ELEVEN}
    wanted |= {("test", "CasPL", dataset, "all", seed, shots) for dataset, seed, shots
               in itertools.product(ELEVEN, (1, 2, 3), ["1", "2", "4", "8", "16"])}
    assert found == wanted


@pytest.mark.parametrize("protocol", ["B2N", "CD", "FS"])
def test_every_run_has_what_its_command_line_names(protocol):
    runs = plan(Selection(protocol, methods=(*TESTED, "ZeroshotCLIP_NeRP")))
    seen = set()
    for run in runs:
        args = parsed(run.command)
        assert args.dataset in shipped_cards()
        assert not args.config_file or find_method_file(args.config_file).is_file()
        assert args.output_dir == str(run.directory)
        shared = args.phase == "train" and trains_without_labels(args.trainer)
        task = "FS" if shared and protocol == "B2N" else protocol
        assert args.options["TASK"] == task
        assert set(run.needs) <= seen
        if getattr(args, "model_dir", ""):
            assert args.model_dir == str(run.needs[0])
            assert args.trainer.split("_")[0] in args.model_dir
        seen.add(run.directory)
    assert len(seen) == len(runs)


@pytest.mark.parametrize(("method", "task", "dataset", "shots", "config"), [
    ("MMRL", "B2N", "eurosat", 16, "vit_b16"),
    ("MMRL", "B2N", "imagenet", 16, "vit_b16_imagenet"),
    ("MMRL", "CD", "imagenet", 16, "vit_b16_cross_datasets"),
    ("MMRL", "FS", "imagenet", 1, "vit_b16_few_shot"),
    ("MMA", "B2N", "dtd", 16, "vit_b16_ep5"),
    ("KgCoOp", "FS", "eurosat", 4, "vit_b16_ep100_ctxv1"),
    ("MaPLe", "B2N", "imagenet", 16, "vit_b16_c2_ep5_batch4_2ctx"),
    ("MaPLe", "CD", "imagenet", 16, "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"),
    ("TCP", "B2N", "sun397", 16, "vit_b16_ep100_ctxv1"),
    ("CoPrompt", "B2N", "eurosat", 16, "coprompt"),
    ("MMA", "B2N", "imagenet", 16, "vit_b16_ep5_imnet"),
    ("MMA", "CD", "imagenet", 16, "vit_b16_ep1_cross_datasets"),
    ("PromptSRC", "B2N", "imagenet", 16, "vit_b16_c2_ep20_batch4_4+4ctx"),
    ("PromptSRC", "CD", "imagenet", 16, "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets"),
    ("PromptSRC", "FS", "dtd", 4, "vit_b16_c2_ep50_batch4_4+4ctx_few_shot"),
    ("CoCoOp", "B2N", "imagenet", 16, "vit_b16_c4_ep10_batch1_ctxv1"),
    ("CoCoOp", "CD", "imagenet", 16, "vit_b16_c4_ep5_batch1_cross_datasets"),
    ("CoOp", "B2N", "eurosat", 16, "vit_b16_ctxv1"),
    ("CoOp", "B2N", "imagenet", 16, "vit_b16_ep50_ctxv1"),
    ("CoOp", "CD", "imagenet", 16, "vit_b16_ep50_ctxv1"),
    ("CoOp", "FS", "eurosat", 1, "vit_b16_ep50"),
    ("CoOp", "FS", "eurosat", 2, "vit_b16_ep100"),
    ("CoOp", "FS", "eurosat", 4, "vit_b16_ep100"),
    ("CoOp", "FS", "eurosat", 16, "vit_b16"),
    ("CoOp", "FS", "imagenet", 16, "vit_b16_ep50"),
    ("ZeroshotCLIP", "B2N", "eurosat", 16, ""),
    ("MMRL", "CD", "demo_objects", 16, "tiny"),
    ("ZeroshotCLIP", "B2N", "demo_landcover", 16, "tiny"),
])
def test_configurations_are_the_published_ones(method, task, dataset, shots, config):
    assert config_name(method, task, dataset, shots) == config


def test_a_shipped_backbone_asks_for_its_configuration_whatever_the_dataset():
    tiny = {"MODEL.BACKBONE.NAME": "tiny"}
    assert config_name("MMRL", "B2N", "eurosat", 16, tiny) == "tiny"
    assert config_name("MMRL", "B2N", "eurosat", 16, {"MODEL.BACKBONE.NAME": "RN50"}) == "vit_b16"


def test_a_files_name_may_hold_spaces_and_commas(tmp_path):
    card, config = tmp_path / "my, photos.yaml", tmp_path / "my own.yaml"
    card.write_text("DATASET: {NAME: Mine}")
    config.write_text("")
    values = {"datasets": [str(card), "eurosat,dtd"], "config": [f"CoOp={config}"]}
    assert parse(values, "here") == {"datasets": (str(card), "eurosat", "dtd"),
                                     "config": (f"CoOp={config}",)}


def test_few_shot_promptsrc_has_two_aggregation_settings():
    late = set()
    for run in plan(Selection("few_shot", methods=("PromptSRC",), shots=(1,), seeds=(1,))):
        args = parsed(run.command)
        cfg = resolve(Request(args.trainer, args.dataset, config_file=args.config_file)).cfg
        settings = (cfg.TRAINER.PROMPTSRC.GPA_MEAN, cfg.TRAINER.PROMPTSRC.GPA_STD)
        assert settings in ((30, 30), (45, 5))
        if settings == (45, 5):
            late.add(args.dataset)
    assert late == {"stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"}


def test_the_methods_are_the_registered_ones():
    from nerp.base.registry import TRAINERS

    assert set(methods()) <= set(TRAINERS.names())
    assert {name for name in TRAINERS.names() if TRAINERS[name].folder} == {
        name for name in methods() if catalogue()["methods"][name]
    }
    without = {name for name in methods()
               if trains_without_labels(name) or trains_on_all_classes(name)}
    assert without == {name for name in methods() if not TRAINERS[name].reads_labels}
    for rule, attribute in ((trains_on_all_classes, "all_classes"),
                            (lambda name: not serves(name, "", "", "new"), "own_classes")):
        assert set(filter(rule, methods())) == {
            name for name in methods() if getattr(TRAINERS[name], attribute)}
    learning = [name for name in methods() if name != "ZeroshotCLIP"]
    assert published_methods() == ["ZeroshotCLIP",
                                   *(x for name in learning for x in (name, name + "_NeRP"))]


def promptkd(protocol, **chosen):
    """The runs of PromptKD on EuroSAT: of its teacher, and its own."""
    runs = plan(Selection(protocol, ("PromptKD_NeRP",), ("eurosat",), **chosen))
    return ([run for run in runs if run.trainer == "PromptSRC"],
            [run for run in runs if run.trainer != "PromptSRC"])


def test_one_teacher_is_trained_before_a_student_a_seed_on_the_images_of_all_classes():
    teachers, students = promptkd("base_to_novel")
    (teacher,) = keys(teachers)
    assert teacher == ("train", "PromptSRC", "eurosat", "base", 1)
    assert teachers[0].directory.parent.name == "vit_l14_c2_ep20_batch8_4+4ctx"
    assert list(keys(students)) == [run for seed in (1, 2, 3) for run in (
        ("train", "PromptKD", "eurosat", "all", seed),
        *((("test", name, "eurosat", part, seed)) for part in ("base", "new")
          for name in ("PromptKD", "PromptKD_NeRP")))]
    for run in students:
        if run.argv[0] == "train":
            options = parsed(run.command).options
            assert options["DATASET.NUM_SHOTS"] == "0" and run.needs == (teachers[0].directory,)
            assert options["TRAINER.PROMPTKD.TEACHER_CHECKPOINT"] == str(teachers[0].directory)
            assert options["TRAINER.PROMPTKD.TEACHER_EPOCH"] == "0"


def test_across_datasets_the_teacher_is_imagenets_and_the_student_the_targets():
    teachers, students = promptkd("few_shot", shots=(4, 16), seeds=(1, 2))
    (teacher,) = keys(teachers)
    assert teacher == ("train", "PromptSRC", "imagenet", "all", 1)
    assert parsed(teachers[0].command).options["DATASET.NUM_SHOTS"] == "16"
    trained = [run for run in students if run.argv[0] == "train"]
    assert [key[2:] for key in keys(trained)] == [("eurosat", "all", 1), ("eurosat", "all", 2)]
    with pytest.raises(NerpError, match="PromptKD has no place in cross_dataset"):
        plan(Selection("cross_dataset", ("PromptKD",)))
    assert not any(run.trainer.startswith("PromptKD") for run in plan(Selection("cross_dataset")))


@pytest.mark.parametrize(("protocol", "tests"), [
    ("base_to_novel", {("eurosat", "base")}), ("few_shot", {("eurosat", "all")}),
    ("open_world", set()), ("cross_dataset", {(name, "all") for name in ["imagenet", *VARIANTS]}),
])
def test_a_method_of_its_own_classes_is_tested_on_those_alone(protocol, tests):
    datasets = () if protocol == "cross_dataset" else ("eurosat",)
    runs = plan(Selection(protocol, ("TaskRes_NeRP",), datasets, (1,), (16,)))
    found = [key for key in keys(runs) if key[1] == "TaskRes_NeRP"]
    assert {key[2:4] for key in found} == tests


def test_what_a_training_builds_on_is_trained_once_before_it():
    """One training without labels serves every seed, number of shots, and both protocols."""
    places = set()
    for protocol in ("B2N", "FS"):
        runs = plan(Selection(protocol, methods=("CasPL_PromptSRC", "CasPL_CoOp_SAR"),
                              datasets=("eurosat",), shots=(4, 16)))
        boosting = [run for run in runs if run.trainer == "CasPL"]
        trainings = [run for run in runs if run.argv[0] == "train" and run not in boosting]
        assert len(boosting) == 1 and len(trainings) == 12
        places.add(boosting[0].directory)
        for run in trainings:
            node = "CASPL_PROMPTSRC" if "PromptSRC" in run.trainer else "CASPL_COOP"
            options = parsed(run.command).options
            assert run.needs == (boosting[0].directory,)
            assert options[f"TRAINER.{node}.BOOSTING"] == str(boosting[0].directory)
            assert options[f"TRAINER.{node}.BOOSTING_EPOCH"] == "0"
    assert len(places) == 1


@pytest.mark.parametrize(("method", "depth"), [("CasPL_CoOp", "l1"), ("CasPL_CoCoOp", "l3")])
def test_a_method_may_need_another_training_before_it_than_its_siblings(method, depth):
    runs = plan(Selection("CD", methods=(method,), datasets=("imagenetv2",), seeds=(2,)))
    config = f"vit_b16_c2_ep20_batch128_lr0025_4+4ctx_{depth}"
    assert runs[0].directory.parts[-3:] == ("CasPL", config, "seed1")


def test_nerp_alone_brings_its_training_and_its_baseline():
    runs = plan(Selection("B2N", ("MMRL_NeRP",), ("eurosat",), (1,)))
    assert [key[:2] for key in keys(runs)] == [
        ("train", "MMRL"), ("test", "MMRL"), ("test", "MMRL_NeRP"),
        ("test", "MMRL"), ("test", "MMRL_NeRP"),
    ]
    assert len(runs[2].needs) == 2


def test_a_phase_holds_the_named_methods_alone():
    train = plan(Selection("B2N", ("MMRL", "MMRL_NeRP"), ("eurosat",), (1,), phase="train"))
    assert [key[:2] for key in keys(train)] == [("train", "MMRL")]
    test = plan(Selection("B2N", ("MMRL_NeRP",), ("eurosat",), (1,), phase="test"))
    assert [key[1::2] for key in keys(test)] == [("MMRL_NeRP", "base"), ("MMRL_NeRP", "new")]
    assert not any(run.needs for run in test)


def test_another_source_gives_its_configuration_to_all_targets():
    runs = plan(Selection("CD", ("CoOp",), ("demo_landcover", "demo_textures"), (1,),
                          source="demo_objects"))
    assert [key[:3] for key in keys(runs)] == [
        ("train", "CoOp", "demo_objects"), ("test", "CoOp", "demo_objects"),
        ("test", "CoOp", "demo_landcover"), ("test", "CoOp", "demo_textures"),
    ]
    assert {parsed(run.command).config_file for run in runs} == {"configs/trainers/CoOp/tiny.yaml"}


def test_few_shot_nerp_corrects_classes_that_were_trained_on():
    runs = plan(Selection("FS", ("MMRL_NeRP",), ("eurosat",), (1,), (4,)))
    assert [key[:2] for key in keys(runs)] == [("train", "MMRL"), ("test", "MMRL_NeRP")]
    assert parsed(runs[1].command).options["NERP.ON_BASE"] == "True"


def test_options_of_the_user_come_last():
    run = plan(Selection("B2N", ("MMRL",), ("eurosat",), options=("OPTIM.MAX_EPOCH", "1")))[0]
    assert run.argv[-2:] == ("OPTIM.MAX_EPOCH", "1")


def test_commands_survive_spaces_in_paths():
    run = plan(Selection("B2N", ("MMRL",), ("eurosat",), root="my data", output="my runs"))[0]
    args = parsed(run.command)
    assert (args.root, args.output_dir.split("/")[0]) == ("my data", "my runs")


def test_a_file_selects_what_the_options_select(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("protocol: B2N\nmethods: [MMRL]\ndatasets: eurosat, dtd\nseeds: [1, 2]\n"
                    "options: {OPTIM.MAX_EPOCH: 5}\n")
    assert Selection(**read_selection(path)) == Selection(
        "B2N", ("MMRL",), ("eurosat", "dtd"), (1, 2), options=("OPTIM.MAX_EPOCH", "5")
    )


@pytest.mark.parametrize(("text", "message"), [
    ("protocoll: B2N", "Did you mean protocol"),
    ("seeds: [one]", "whole numbers"),
    ("options: [OPTIM.MAX_EPOCH]", "KEY VALUE pairs"),
    ("- a list", "KEY: value"),
    ("save_logits: often", "save_logits is 'often'; it takes True or False"),
])
def test_a_malformed_file_is_refused(tmp_path, text, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(NerpError, match=message):
        read_selection(path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"protocol": "B3N"}, "unknown protocol"),
    ({"methods": ("MMRLL",)}, "Did you mean MMRL"),
    ({"datasets": ("eurostat",)}, "Did you mean eurosat"),
    ({"phase": "training"}, "unknown phase"),
    ({"config": "vit_b17"}, "no such method configuration"),
    ({"methods": ("MMRL_NeRP",), "phase": "train"}, "nothing to train"),
    ({"options": ("OPTIM.MAX_EPOC", "1")}, "Did you mean OPTIM.MAX_EPOCH"),
    ({"options": ("OPTIM.MAX_EPOCH", "many")}, "OPTIM.MAX_EPOCH is 'many'"),
])
def test_what_does_not_exist_is_named(changes, message):
    chosen = {"protocol": "B2N", "methods": ("MMRL",), "datasets": ("eurosat",), **changes}
    with pytest.raises(NerpError, match=message):
        plan(Selection(**chosen))


def test_missing_data_is_named_before_anything_runs(tmp_path):
    runs = plan(Selection("B2N", ("MMRL",), ("eurosat", "dtd", "demo_landcover")))
    directory = load_yaml(shipped_cards()["eurosat"])["DATASET"]["DIRECTORY"]
    (tmp_path / directory).mkdir()
    with pytest.raises(NerpError, match=r"1 of 2 datasets are not there: .*/dtd\."):
        check_data(str(tmp_path), runs)


def test_a_first_stage_leaves_no_result_beside_that_of_the_method():
    runs = plan(Selection("base_to_novel", methods=("PLOTPP",), datasets=("eurosat",), seeds=(1,)))
    stages = [parsed(run.command) for run in runs if run.argv[0] == "train"]
    assert [stage.options.get("TEST.NO_TEST") for stage in stages] == ["True", None]
