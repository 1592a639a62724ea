"""The command line: `python -m runtime.face_model convert SOURCE --out FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.command import command
from runtime.convert.basel import is_basel, read_basel
from runtime.convert.draft import write_model
from runtime.convert.ict import is_ict, read_ict
from runtime.errors import InvalidInputError
from runtime.face_model import FaceModel


def convert(source: Path, out: Path, *, shape_count: int = 40, expression_count: int = 10) -> FaceModel:
    """Converts 3DDFA's, 3DDFA_V2's or ICT-FaceKit's files, whichever `source` is, and loads what was written.

    Raises:
        FileNotFoundError: there is no such source, or a file of it is missing.
        InvalidInputError: it is none of the known layouts.
        FileFormatError: a file is of another layout.
        EngineUnavailableError: it holds .mat files and SciPy is missing.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: expected a face model's folder or file, found none; check the path")
    if is_ict(source):
        return write_model(read_ict(source, shape_count, expression_count), out)
    if is_basel(source):
        return write_model(read_basel(source, shape_count, expression_count), out)
    raise InvalidInputError(
        f"{source}: expected Model_Shape.mat and Model_Exp.mat, 3DDFA's w_shp_sim.npy, 3DDFA_V2's bfm_*.pkl or "
        "ICT-FaceKit's generic_neutral_mesh.obj, got none of them; give the folder (or .pkl) that holds them"
    )


@command()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (`runtime.command.Exit`)."""
    parser = argparse.ArgumentParser(prog="python -m runtime.face_model", description="Face models as files.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("convert", help="make a face model file of another project's model").add_argument
    add("source", type=Path, help="folder or file of 3DDFA, 3DDFA_V2 or ICT-FaceKit")
    add("--out", type=Path, required=True, metavar="FILE", help="face model to write (.safetensors)")
    add("--shape-count", type=int, default=40, metavar="S", help="shape modes (default: 40)")
    add("--expression-count", type=int, default=10, metavar="E", help="expression modes (default: 10)")
    options = parser.parse_args(arguments)
    model = convert(
        options.source, options.out, shape_count=options.shape_count, expression_count=options.expression_count
    )
    print(
        f"{options.out}: {model.name}, {len(model.mean)} vertices, {model.shape_count} + {model.expression_count} modes"
        + ("" if model.can_mirror else "; not mirror-symmetric: train without flips")
    )
    return 0
