"""The three stages of a run folder: train, edit, eval. Each is skipped when its inputs have not changed."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
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
from vitmem import models, pretrained
from vitmem.attacks import Attack, AttackData, AttackResult
from vitmem.config import RunConfig, read_edit
from vitmem.curvature.cache import CurvatureCache
from vitmem.distributed import is_main, on_main
from vitmem.editing import Edit, EditData, EditDiverged, EditResult, attempt
from vitmem.editing.known import known_noisy
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.keeper import StateLost
from vitmem.models import with_weights
from vitmem.runs import (
    RunFolder,
    check_name,
    digest,
    file_digest,
    now,
    provenance,
    read_json,
    to_json,
    write_atomically,
)
from vitmem.training import TrainingDiverged, fit

BASE = "base"
_SETTINGS = ("config.yaml", "noise.csv", "noise.json")
_WEIGHTS = ("model.safetensors", "model.json")


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


def check_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model without storage, so that wrong sizes, weights and patterns are found before any work."""
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = models.create(arguments, device="meta")
    if config.model.pretrained:
        pretrained.read(pretrained.find(config.model.pretrained), model)
    return model


def pretrained_sha256(config: RunConfig) -> str | None:
    """Return the SHA-256 of the weights that training starts from; None where they are random."""
    return file_digest(pretrained.find(config.model.pretrained)) if config.model.pretrained else None


def new_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model at step 0, and say what a file of pretrained weights left out."""
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = models.create(arguments, seed=config.seed)
    if config.model.pretrained:
        weights, notes = pretrained.read(pretrained.find(config.model.pretrained), model)
        model.load_state_dict(weights, strict=False)
        print(f"weights from {config.model.pretrained}: {len(weights)} tensors; {'; '.join(notes) or 'all of them'}")
    return model


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


def train(config: RunConfig, path: Path, *, force: bool = False) -> "TrainedRun":
    """Train a model into a run folder; go on where an interrupted run stopped; do nothing if it is finished.

    Args:
        config: everything that determines the model.
        path: the run folder.
        force: replace a run that is there.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
        Interrupted: the training was told to end.
        StateLost: the results cannot be written.
    """
    data = make_data(config)
    check_model(config, data)
    config.trainer.join(config.train.batch_size)
    if on_main(lambda: prepare(config, path, data, force)):
        return TrainedRun(path, data)
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = new_model(config, data)
    start = time.perf_counter()
    state, epoch = fit(model, data, config.train, config.trainer, seed=config.seed, folder=path)
    if is_main():
        mean, std = data.data.mean_std
        description = {"timm": arguments, "mean": mean, "std": std, "classes": data.data.class_names}
        seconds = round(time.perf_counter() - start, 3)
        try:
            save_model(path, state, description)
            facts = {"finished": now(), "train_seconds": seconds, "epoch": epoch}
            RunFolder(path).seal([*_WEIGHTS, "metrics.csv"], **facts)
        except OSError as error:
            raise StateLost(
                f"the trained model cannot be written to {path} ({error.strerror}); make room or make the folder "
                "writable: the same command goes on from the last checkpoint, if there is one"
            ) from error
    return TrainedRun(path, data)


def prepare(config: RunConfig, path: Path, data: MemorisationData, force: bool) -> bool:
    """Make a run folder ready for training, and return whether it holds the finished model.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
    """
    folder = RunFolder(path)
    examples = len(data.fit_examples())
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    start_sha256 = pretrained_sha256(config)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not folder.is_run:
            raise ValueError(f"{path} exists and is not a run folder; choose another --out or --name")
        if force:
            aside = path.with_name(f".{path.name}.replaced")
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)
        else:
            folder.check()
            saved = RunConfig.from_dict(yaml.safe_load((path / "config.yaml").read_text()))
            if on_one_device(saved) != on_one_device(config):  # options newer than the folder have their defaults
                difference = _difference(saved.to_dict(), config.to_dict())
                raise ValueError(
                    f"{path} holds a run with other settings ({difference}); choose another --name, "
                    "or --force to replace it"
                )
            if folder.read_provenance().get("pretrained_sha256") != start_sha256:
                raise ValueError(
                    f"{config.model.pretrained} is not the file that {path} started from: its SHA-256 differs; "
                    "restore it, choose another --name, or --force to replace the run"
                )
            if folder.is_trained:
                print(f"{path}: already trained")
                return True
    begin(folder, text, data, pretrained_sha256=start_sha256)
    shutil.rmtree(path.with_name(f".{path.name}.replaced"), ignore_errors=True)
    header = data.manifest.header()
    print(f"{path}: training on {examples} examples ({config.train_on}); {header['num_noisy']} of "
          f"{header['num_examples']} labels are wrong, realised rate {header['realised_rate']:.4f} "
          f"({header['kind']}, nominal {header['rate']:g})", flush=True)  # fmt: skip
    return False


def on_one_device(config: RunConfig) -> RunConfig:
    """Return a configuration without the devices: a run may go on on others."""
    elsewhere = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **elsewhere))


def begin(folder: RunFolder, config_text: str, data: MemorisationData, **facts: object) -> None:
    """Write a run's settings and seal them with further facts: the folder appears whole or not at all."""
    if folder.is_run:
        return
    new = folder.path.with_name(f".{folder.path.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "config.yaml").write_text(config_text)
    (new / "noise.csv").write_text(data.manifest.csv_text())
    (new / "noise.json").write_text(to_json(data.manifest.header()))
    RunFolder(new).seal(_SETTINGS, data_fingerprint=data.manifest.data_fingerprint, **facts)
    new.replace(folder.path)


def _difference(old: dict, new: dict, prefix: str = "") -> str:
    changes = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += [_difference(before, after, f"{prefix}{key}.")] if before != after else []
        elif before != after:
            changes.append(f"{prefix}{key}: {before} there, {after} asked for")
    return ", ".join(changes)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run folder, checked when it is opened.

    Args:
        path: the folder.
        known_data: its data module, if it is at hand.
        verbose: tell the cost of curvature layer by layer, not only in total.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        latest: the last edit's id and weights, so that they can be evaluated without a file.
        beside: runs of the other models that attacks were compared with, opened so far.
    """

    path: Path
    known_data: MemorisationData | None = None
    verbose: bool = False
    known: float = 0.5
    latest: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
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
            difference = _difference(saved.header(), data.manifest.header())
            raise ValueError(f"the data at hand are not those that {self.path} was trained on ({difference})")
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
            finished = there["weights_sha256"] is not None or _diverged(there)
            if there["inputs"] == inputs and (finished or (not save and self._measured(edit_id, inputs))):
                if tuned is not None and there.get("tuned") != tuned:  # the same choice, made in another way
                    there["tuned"] = tuned
                    write_atomically(folder / "edit.json", to_json(there))
                return there
            if there["inputs"] != inputs and not replace:
                old, new = {"edit": there["name"], **there["options"]}, {"edit": name, **options}
                difference = _difference(old, new) or f"known: {self.known:g} asked for"
                raise ValueError(
                    f"{folder} holds an edit with other options ({difference}); "
                    "give another --id, or --force to replace it"
                )
        edit.check(self.model)
        data = EditData(self.data, edit.sees, self.cache, known)
        made = attempt(edit, self.model, data, keyed_generator(self.config.seed, 5), keep_going=keep_going)
        result, status = made.result, made.status
        report = {"layers": [], "seconds": {"apply": made.seconds}} if result is None else result.report
        self.latest.clear()
        if result is not None:
            self.latest[edit_id] = result.state_dict
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
        return known if known and known["inputs"] == self._evaluation_inputs(weights, share) else None

    def _evaluation_inputs(self, weights: str, share: float | None = None) -> str:
        known = self.known_noisy(share).nonzero()[:, 0].tolist()
        data = {"noise": self.noise_sha256, "data": self.data.data.fingerprint, "known": known}
        return digest({"weights": weights, **data})

    def _weights(self, edit_id: str) -> str:
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
            return with_weights(self.model, self.latest[edit_id]).to(self.device)
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
        if edit_id != BASE and _diverged(read_edit_json(self.path / "edits" / edit_id)):
            return {"id": edit_id, "metrics": {}, "at_chance": False}
        share, weights = self.share_known(edit_id), self._weights(edit_id)
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
            "inputs": self._evaluation_inputs(weights, share),
            "metrics": found,
            "at_chance": metrics.at_chance(table),
            "provenance": provenance(),
        }
        write_atomically(folder / "metrics.json", to_json(content))
        return json.loads(to_json(content))

    def attack(
        self,
        attack: Attack,
        name: str,
        attack_id: str,
        edit_id: str = BASE,
        *,
        force: bool = False,
        keep_going: bool = False,
    ) -> dict:
        """Attack the base model or an edit and store what was measured; do nothing if that was done.

        Args:
            attack: the options.
            name: registered name.
            attack_id: name of the result.
            edit_id: which weights; ``base`` for this run's own model.
            force: do it again even so.
            keep_going: if it fails, store why; it then counts as not made.

        Returns:
            What ``evals/<edit_id>/attacks/<attack_id>.json`` holds.

        Raises:
            ValueError: the attack failed.
        """
        options = json.loads(to_json(dataclasses.asdict(attack)))
        if self.is_attacked(attack, name, attack_id, edit_id) and not force:
            return self.attack_result(attack_id, edit_id)
        model, asked = self.model_of(edit_id), {}

        def reference(of: str) -> nn.Module | None:
            run, its_id = self._run_of(of)
            asked[of] = run._weights(its_id) if run else None
            return run.model_of(its_id) if run else None

        start = time.perf_counter()
        subject = self.config.train_on if edit_id == BASE and self.config.train_on != "noisy" else edit_id
        base = self._run_of(BASE)[0] or self
        share = self.share_known(edit_id)
        data = AttackData(
            self.data,
            subject,
            reference,
            base.path / "attacks",
            self.config.seed,
            self._repeated(edit_id),
            self.known_noisy(share) if share < 1 else None,
        )
        try:
            result = attack.apply(model, data, keyed_generator(self.config.seed, 6))
        except (ValueError, RuntimeError, EditDiverged, TrainingDiverged) as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
            if not keep_going:
                raise ValueError(f"{self.path}: {attack_id} on {edit_id} failed: {why}") from error
            result = AttackResult([], {"failed": why})
        content = {
            "id": subject,
            "attack": attack_id,
            "name": name,
            "options": options,
            "settings": list(attack.settings),
            "inputs": self._attack_inputs(edit_id, name, options),
            "references": asked,
            "rows": result.rows,
            "report": result.report,
            "seconds": round(time.perf_counter() - start, 3),
            "provenance": provenance(),
        }
        path = self._attack_file(attack_id, edit_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(content))
        return json.loads(to_json(content))

    def is_attacked(self, attack: Attack, name: str, attack_id: str, edit_id: str = BASE) -> bool:
        """Tell whether the result of an attack with these options is stored and still holds."""
        known = self.attack_result(attack_id, edit_id)
        options = json.loads(to_json(dataclasses.asdict(attack)))
        made = known is not None and "failed" not in known["report"]
        return made and (known["name"], known["options"]) == (name, options)

    def attack_result(self, attack_id: str, edit_id: str = BASE) -> dict | None:
        """Return the stored result of an attack, unless what it was measured on has changed since."""
        keys = ("id", "attack", "name", "options", "settings", "inputs", "references", "rows", "report", "seconds")
        known = read_json(self._attack_file(attack_id, edit_id), keys)
        if known is None or known["inputs"] != self._attack_inputs(edit_id, known["name"], known["options"]):
            return None
        for of, weights in known["references"].items():
            run, its_id = self._run_of(of)
            if weights != (run._weights(its_id) if run else None):
                return None
        return known

    def attack_results(self, edit_id: str = BASE) -> list[dict]:
        """Return all stored results of attacks on the base model or an edit that still hold."""
        names = sorted(path.stem for path in self._attack_file("*", edit_id).parent.glob("*.json"))
        return [known for name in names if (known := self.attack_result(name, edit_id))]

    def _attack_file(self, attack_id: str, edit_id: str) -> Path:
        return self.path / "evals" / edit_id / "attacks" / f"{attack_id}.json"

    def _attack_inputs(self, edit_id: str, name: str, options: dict) -> str:
        measured = self._evaluation_inputs(self._weights(edit_id), self.share_known(edit_id))
        return digest({"measured": measured, "name": name, "options": options, "seed": self.config.seed})

    def _run_of(self, of: str) -> tuple["TrainedRun | None", str]:
        """Return the run that holds a model, by its id, and the model's id there; None if there is no such run.

        ``clean`` and ``retrain`` lie beside the base run, in folders named after it.
        """
        own = "" if self.config.train_on == "noisy" else f"-{self.config.train_on}"
        path = self.path.resolve()
        its_id = BASE if of in (BASE, "clean", "retrain") else of
        if not path.name.endswith(own):  # a reference model in a folder of another name: its base is not known
            return None, its_id
        root = path.name.removesuffix(own)
        beside = path.with_name(f"{root}-{of}" if of in ("clean", "retrain") else root)
        if beside == path:
            return self, its_id
        return (self._opened(beside) if RunFolder(beside).is_trained else None), its_id

    def _opened(self, path: Path) -> "TrainedRun":
        if path not in self.beside:
            self.beside[path] = TrainedRun.open(path)
        return self.beside[path]

    def _repeated(self, edit_id: str) -> Callable[[nn.Module], EditResult] | None:
        """Return the edit of that id as a function of a model; its curvature is not kept."""
        if edit_id == BASE:
            return None
        content = read_edit_json(self.path / "edits" / edit_id)
        edit = read_edit(content["name"], content["options"])
        known = self.known_noisy(self.share_known(edit_id))

        def again(model: nn.Module) -> EditResult:
            return edit.apply(model, EditData(self.data, edit.sees, known=known), keyed_generator(self.config.seed, 5))

        return again


def _diverged(content: dict) -> bool:
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
