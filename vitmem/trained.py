"""A finished run folder: its model and data, the edits made of it, and their evaluation."""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from datamodules.batch import keyed_generator
from datamodules.module import MemorisationData
from datamodules.noise import NoiseManifest
from vitmem import models
from vitmem.config import RunConfig
from vitmem.curvature.cache import CurvatureCache
from vitmem.distributed import is_main
from vitmem.editing import Attempt, Edit, EditData, attempt
from vitmem.editing.known import known_noisy
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.models import with_weights
from vitmem.runs import (
    RunFolder,
    check_name,
    difference,
    digest,
    file_digest,
    provenance,
    read_json,
    to_json,
    write_atomically,
)

BASE = "base"


def make_data(config: RunConfig) -> MemorisationData:
    """Return the data module of a configuration."""
    return MemorisationData(
        config.data,
        config.noise,
        batch_size=config.train.batch_size,
        train_on=config.train_on,
        seed=config.seed,
        augment=config.augment,
    )


def save_model(folder: Path, state: dict[str, Tensor], description: dict) -> None:
    """Write ``model.safetensors`` (plain timm names) and ``model.json`` (how timm builds the model)."""
    write_atomically(folder / "model.safetensors", save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
    write_atomically(folder / "model.json", to_json(description))


def load_model(folder: Path) -> nn.Module:
    """Return the model that a folder holds.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the other.
    """
    try:
        arguments = json.loads((folder / "model.json").read_text())["timm"]
        state = load_file(folder / "model.safetensors")
        model = models.create(arguments)
        model.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{folder / 'model.safetensors'} cannot be loaded: {message[:300]}") from error
    return model.eval()


@dataclass(frozen=True)
class TrainedRun:
    """A finished run folder, checked when it is opened.

    Args:
        path: the folder.
        known_data: its data module, if it is at hand.
        verbose: tell the cost of curvature layer by layer, not only in total.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        latest: the last edit's id, inputs and result: it can be evaluated without a file, and the same edit is not made
            again under another id (of another operating point, say).
        beside: runs of the other models that attacks were compared with, opened so far.
    """

    path: Path
    known_data: MemorisationData | None = None
    verbose: bool = False
    known: float = 0.5
    latest: dict[str, tuple[str, Attempt]] = dataclasses.field(default_factory=dict)
    beside: dict[Path, "TrainedRun"] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str, verbose: bool = False, known: float = 0.5) -> "TrainedRun":
        """Open a run folder.

        Args:
            path: the folder.
            verbose: see the class.
            known: see the class.

        Raises:
            ValueError: it is not a finished run folder, or something in it was changed.
        """
        folder = RunFolder(path)
        folder.check()
        if not folder.is_trained:
            raise ValueError(f"{path} is not finished training; run the command that started it again")
        return cls(Path(path), verbose=verbose, known=known)

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return RunConfig.from_dict(yaml.safe_load((self.path / "config.yaml").read_text()))

    @cached_property
    def data(self) -> MemorisationData:
        """The data module, refused unless it has the labels of the manifest."""
        data = self.known_data or make_data(self.config)
        saved = NoiseManifest.load(self.path / "noise.csv", self.path / "noise.json")
        if saved.header() != data.manifest.header():
            differs = difference(saved.header(), data.manifest.header())
            raise ValueError(f"the data at hand are not those that {self.path} was trained on ({differs})")
        return data

    @cached_property
    def model(self) -> nn.Module:
        """The unedited model, in eval mode, on a GPU if there is one."""
        return load_model(self.path).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where models are edited and measured."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def cache(self) -> CurvatureCache:
        """Curvature of this run's model."""

        def announce(lines: list[str]) -> None:
            print("\n".join(lines if self.verbose else [f"{lines[0]} {lines[-1].strip()}"]), flush=True)

        return CurvatureCache(self.path / "factors", announce)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of ``model.safetensors``."""
        return RunFolder(self.path).read_provenance()["sha256"]["model.safetensors"]

    def known_noisy(self, share: float | None = None) -> Tensor:
        """Return N, bool: the wrong labels that edits with a forget set know.

        Args:
            share: of the wrong labels; the run's own by default.
        """
        noise_seed = self.data.manifest.seed
        is_noisy = self.data.train_examples.is_noisy
        return known_noisy(is_noisy, self.known if share is None else share, noise_seed, self.config.seed)

    def share_known(self, edit_id: str = BASE) -> float:
        """Return the share of the wrong labels that an edit knew; the run's own for what was told of none."""
        told = None if edit_id == BASE else read_edit_json(self.path / "edits" / edit_id).get("known")
        return told["share"] if told else self.known

    def edited(self) -> list[str]:
        """Return the ids of the edits that the folder holds."""
        return sorted(p.parent.name for p in self.path.glob("edits/*/edit.json"))

    def edit(
        self,
        edit: Edit,
        name: str,
        edit_id: str,
        *,
        force: bool = False,
        replace: bool = False,
        save: bool = True,
        tuned: dict | None = None,
        keep_going: bool = False,
    ) -> dict:
        """Apply an edit and store the weights; do nothing if the same edit is there.

        An edit that diverges leaves an ``edit.json`` that says so, and no weights.

        Args:
            edit: the options.
            name: registered name.
            edit_id: name of the result in the folder.
            force: do it again even so.
            replace: do it again if the folder holds another edit of that id, instead of refusing.
            save: store the weights; without them, the edit must be evaluated before the next one.
            tuned: how its options were chosen, for ``edit.json``.
            keep_going: treat an edit that cannot be made, for whatever reason, as one that diverged.

        Returns:
            What ``edit.json`` holds.
        """
        if edit_id in (BASE, "clean", "retrain"):
            raise ValueError(f"--id is {edit_id!r}, which is the name of a reference row; give another")
        folder = self.path / "edits" / check_name("--id", edit_id)
        options = dataclasses.asdict(edit)
        known = self.known_noisy()
        facts = {"weights": self.weights_sha256, "name": name, "options": options, "noise": self.noise_sha256}
        if "forget" in edit.sees:
            facts["known"] = known.nonzero()[:, 0].tolist()
        inputs = digest(facts)
        if (folder / "edit.json").exists() and not force:
            there = read_edit_json(folder)
            finished = there["weights_sha256"] is not None or diverged(there)
            if there["inputs"] == inputs and (finished or (not save and self._measured(edit_id, inputs))):
                if tuned is not None and there.get("tuned") != tuned:  # the same choice, made in another way
                    there["tuned"] = tuned
                    write_atomically(folder / "edit.json", to_json(there))
                return there
            if there["inputs"] != inputs and not replace:
                old, new = {"edit": there["name"], **there["options"]}, {"edit": name, **options}
                differs = difference(old, new) or f"known: {self.known:g} asked for"
                raise ValueError(
                    f"{folder} holds an edit with other options ({differs}); "
                    "give another --id, or --force to replace it"
                )
        edit.check(self.model)
        data = EditData(self.data, edit.sees, self.cache, known)
        made = None if force else dict(self.latest.values()).get(inputs)
        if made is None:
            made = attempt(edit, self.model, data, keyed_generator(self.config.seed, 5), keep_going=keep_going)
        result, status = made.result, made.status
        report = {"layers": [], "seconds": {"apply": made.seconds}} if result is None else result.report
        self.latest.clear()
        if result is not None:
            self.latest[edit_id] = (inputs, made)
        if not is_main():
            return {"id": edit_id, "status": status, "report": report}
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        saved = save and result is not None
        if saved:
            save_model(folder, result.state_dict, json.loads((self.path / "model.json").read_text()))
        else:
            weights.unlink(missing_ok=True)
        cost = {
            "passes": made.passes,
            "seconds": sum(report.get("seconds", {"apply": made.seconds}).values()),
            "extra_memory_bytes": made.extra_memory,
            "extra_parameters": report.get("extra_parameters"),
        }
        first = read_json(folder / "edit.json", ("inputs", "cost"))
        if first and first["inputs"] == inputs:  # the same weights, made again
            cost = first["cost"]
        content = {
            "id": edit_id,
            "name": name,
            "main_option": edit.main_option,
            "options": options,
            "sees": sorted(edit.sees),
            "track": edit.track,
            "known": {"share": self.known, "examples": int(known.sum())} if "forget" in edit.sees else None,
            "tuned": tuned,
            "status": status,
            "inputs": inputs,
            "report": report,
            "cost": cost,
            "weights_sha256": file_digest(weights) if saved else None,
            "provenance": provenance(),
        }
        write_atomically(folder / "edit.json", to_json(content))
        return json.loads(to_json(content))  # as a later command will read it

    def _measured(self, edit_id: str, weights: str, share: float | None = None) -> dict | None:
        """Return what ``metrics.json`` holds if it belongs to these weights and data."""
        known = read_json(self.path / "evals" / edit_id / "metrics.json", ("inputs", "metrics", "at_chance"))
        return known if known and known["inputs"] == self.evaluation_inputs(weights, share) else None

    def evaluation_inputs(self, weights: str, share: float | None = None) -> str:
        """Return what tells a measurement of some weights from those with other data or other known examples."""
        known = self.known_noisy(share).nonzero()[:, 0].tolist()
        data = {"noise": self.noise_sha256, "data": self.data.data.fingerprint, "known": known}
        return digest({"weights": weights, **data})

    def weights_digest(self, edit_id: str) -> str:
        """Return what tells the weights of the base model or an edit from all others."""
        if edit_id == BASE:
            return self.weights_sha256
        content = read_edit_json(self.path / "edits" / edit_id)
        return content["weights_sha256"] or content["inputs"]

    def has_weights(self, edit_id: str) -> bool:
        """Tell whether the weights of the base model or an edit are at hand."""
        stored = self.path / "edits" / edit_id / "model.safetensors"
        return edit_id == BASE or edit_id in self.latest or stored.is_file()

    def model_of(self, edit_id: str = BASE) -> nn.Module:
        """Return the base model or an edited one, in eval mode, on the run's device.

        Raises:
            ValueError: there is no such edit, or its weights were not stored.
        """
        if edit_id == BASE:
            return self.model
        if edit_id in self.latest:
            _, made = self.latest[edit_id]
            return with_weights(self.model, made.result.state_dict).to(self.device)
        folder = self.path / "edits" / edit_id
        name = read_edit_json(folder)["name"]
        if not self.has_weights(edit_id):
            raise ValueError(
                f"{folder} holds no weights (save_weights was false); make them with "
                f"`vitmem edit {name} {self.path} --id {edit_id} --force` and the options in edit.json"
            )
        return load_model(folder).to(self.device)

    @cached_property
    def noise_sha256(self) -> str:
        """SHA-256 of the manifest's table."""
        return self.data.manifest.header()["sha256"]

    def evaluate(self, edit_id: str = BASE, *, force: bool = False) -> dict:
        """Evaluate the base model or an edit; do nothing if that was done.

        Args:
            edit_id: which weights; ``base`` for the unedited model.
            force: do it again even so.

        Returns:
            What ``metrics.json`` holds; no metrics for an edit that diverged.
        """
        if edit_id != BASE and diverged(read_edit_json(self.path / "edits" / edit_id)):
            return {"id": edit_id, "metrics": {}, "at_chance": False}
        share, weights = self.share_known(edit_id), self.weights_digest(edit_id)
        measured = self._measured(edit_id, weights, share)
        if measured and not force:
            return measured
        loaders = dict(zip((TRAIN, VALIDATION), self.data.val_dataloader(), strict=True))
        table = predict(self.model_of(edit_id), loaders, self.device, self.known_noisy(share))
        folder = self.path / "evals" / edit_id
        found = {name: dataclasses.asdict(metric) for name, metric in metrics.compute(table).items()}
        folder.mkdir(parents=True, exist_ok=True)
        table.save(folder / "examples.npz")
        content = {
            "id": edit_id,
            "inputs": self.evaluation_inputs(weights, share),
            "metrics": found,
            "at_chance": metrics.at_chance(table),
            "provenance": provenance(),
        }
        write_atomically(folder / "metrics.json", to_json(content))
        return json.loads(to_json(content))


def diverged(content: dict) -> bool:
    """Tell from its ``edit.json`` whether an edit has no weights."""
    return content.get("status", "ok").startswith(("diverged", "failed"))


def read_edit_json(folder: Path) -> dict:
    """Return what an edit's folder says, and refuse weights that were changed.

    Raises:
        ValueError: there is no such edit, or its weights were changed.
    """
    content = read_json(
        folder / "edit.json", ("id", "name", "main_option", "options", "inputs", "report", "weights_sha256")
    )
    if content is None:
        present = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/edit.json"))) or "none"
        raise ValueError(f"{folder} holds no edit; edits of this run: {present}")
    expected = content["weights_sha256"]
    weights = folder / "model.safetensors"
    if expected is not None and (not weights.is_file() or file_digest(weights) != expected):
        raise ValueError(f"{weights} was changed or damaged after it was written; make the edit again with --force")
    return content
