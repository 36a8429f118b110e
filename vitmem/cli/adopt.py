"""``vitmem adopt``: a run folder from weights that were trained elsewhere."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from vitmem.cli.shared import add_output
from vitmem.runs import config

EXAMPLES = """examples:
  vitmem adopt my_vit.pth --architecture vit_base_patch16_224 --data.name imagefolder --data.root data/cifar10
  vitmem adopt hub_folder --data.name imagefolder --data.root data/cifar10 --noise.kind file --noise.file labels.csv
  vitmem adopt w.pth --architecture torchvision/vit_b_16 --expect_memorized 0.92    refused unless it is measured so
"""


def main(arguments: Sequence[str]) -> None:
    """Adopt a model."""
    parser = config.parser_for(
        arguments,
        "vitmem adopt",
        "Make a run folder, OUT/NAME/seedK, from weights that were trained elsewhere on data with wrong labels; "
        "options of training and of our own models have no meaning.",
    )
    parser.examples = EXAMPLES
    parser.add_argument(
        "weights", type=str, help="file of weights, or a folder of timm's or Hugging Face's with its config.json"
    )
    parser.add_argument(
        "--architecture", type=str | None, default=None, help="a model of timm, or torchvision/NAME; config.json's"
    )
    parser.add_argument(
        "--architecture_args",
        type=dict | None,
        default=None,
        help="its sizes and the like, as '{depth: 6, reg_tokens: 4}'",
    )
    parser.add_argument("--expect_memorized", type=float | None, default=None, help="refuse a model that has another")
    parser.add_argument("--expect_validation", type=float | None, default=None, help="refuse a model that has another")
    parser.add_argument("--tolerance", type=float, default=0.02, help="largest difference to what is expected")
    parser.add_argument("--ema", action="store_true", help="take averaged weights, where the file holds them")
    parser.add_argument("--resample", action="store_true", help="resample position embeddings of another size")
    add_output(parser, "adopted")
    values = parser.read(arguments)
    settings = config.run_config(values)

    from vitmem.files import check_name
    from vitmem.runs.adopt import Expected, adopt

    for section in ("model", "train", "trainer", "augment"):
        given, default = getattr(settings, section), type(getattr(settings, section))()
        for option in fields(given):
            if getattr(given, option.name) != getattr(default, option.name):
                raise ValueError(
                    f"{section}.{option.name} is {getattr(given, option.name)}, which an adopted model has not; sizes "
                    "are given with --architecture_args"
                )
    suffix = "" if settings.train_on == "noisy" else f"-{settings.train_on}"
    path = Path(values.out) / check_name("--name", values.name) / f"seed{settings.seed}{suffix}"
    run = adopt(
        values.weights,
        settings,
        path,
        values.architecture,
        values.architecture_args,
        expected=Expected(values.expect_memorized, values.expect_validation, values.tolerance),
        ema=values.ema,
        resample=values.resample,
        force=values.force,
        wait=values.wait,
    )
    print(f"the model is in {run.path}; next: vitmem edit kfac {run.path}, vitmem eval {run.path}")
