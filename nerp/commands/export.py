"""Write a trained model for programs without nerp.

It writes class weights [C, D] with names and scale, for CLIP's image features, as safetensors and
npz. The page beside them, README.md, has the lines that use them with open_clip. If a method can be
folded into CLIP's weights (CLIP-LoRA), those are written too. The weights give the model's logits
exactly; a method for which they cannot is refused. --onnx writes the whole model of any method, as
a graph from images to logits.

With --trainer NAME_NeRP the bias includes a shift (NERP.RULE shift). With TEST.CALIBRATION
temperature the scale includes the temperature.

  nerp export output/mine exported
  nerp export output/mine exported --onnx
  nerp export output/mine exported --classes forest,river,lake
"""

import argparse

from nerp.commands.common import add_overwrite_argument, add_trained_arguments, open_trained, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_trained_arguments(parser)
    parser.add_argument("directory", metavar="DIR", help="for the files; made if need be")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE",
                        help="configuration values, such as MODEL.BACKBONE.PATH FILE")
    parser.add_argument("--onnx", action="store_true",
                        help="a graph instead (pip install 'nerp[onnx]')")
    add_overwrite_argument(parser)


def main(args: argparse.Namespace) -> None:
    from pathlib import Path

    from nerp.engine.export import export

    model = open_trained(args, ["USE_CUDA", "False", *args.opts], precision="fp32")
    files = export(model, Path(args.directory), onnx=args.onnx, overwrite=args.overwrite)
    tell(f"{model.resolved.method}, {len(model.classes)} classes, in float32:")
    for file in files:
        print(f"{file}: {file.stat().st_size / 2**10:,.0f} KiB")
