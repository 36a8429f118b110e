"""``vitmem train``: one model."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import add_output
from vitmem.runs import config

EXAMPLES = """examples:
  vitmem train                                              a small model on handwritten digits, in a minute
  vitmem train --config experiments/digits.yaml --seed 3    the base model of an experiment file, another seed
"""


def main(arguments: Sequence[str]) -> None:
    """Train one model."""
    arguments, left_out, name = config.base_model_only(arguments)
    parser = config.parser_for(
        arguments, "vitmem train", "Train a vision transformer on data with injected wrong labels, into OUT/NAME/seedK."
    )
    parser.examples = EXAMPLES
    add_output(parser, name or "default")
    parser.add_argument("--dry_run", action="store_true", help="tell the memory and time it would take; write nothing")
    values = parser.read(arguments)
    settings = config.run_config(values)

    from vitmem.distributed import is_main, leaving_group
    from vitmem.files import check_name
    from vitmem.runs import start

    if left_out:
        print(f"an experiment file: its base model is trained; {', '.join(left_out)} are left to `vitmem run`")
    if values.dry_run:
        from vitmem.training import cost

        data = start.make_data(settings)
        plan = cost.plan(start.timm_arguments(settings, data), data, settings.train, settings.trainer)
        print("\n".join(plan.lines(cost.where(settings.train, settings.trainer))))
        return
    from vitmem.runs import train

    suffix = "" if settings.train_on == "noisy" else f"-{settings.train_on}"
    folder = Path(values.out) / check_name("--name", values.name) / f"seed{settings.seed}{suffix}"
    with leaving_group():
        done = train.train(settings, folder, force=values.force, wait=values.wait)
        if is_main():
            print(f"the model is in {done.path}; next: vitmem edit kfac {done.path}, vitmem eval {done.path}")
