"""A finished run folder, opened: its configuration, data, model and curvature, and the weights of its edits."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from vitmem.curvature.cache import CurvatureCache
from vitmem.curvature.kept import CACHE_GB, check_cache_gb
from vitmem.datamodules.manifest import TEST_FINGERPRINT
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import NoiseManifest
from vitmem.editing import edits
from vitmem.editing.attempt import Attempt
from vitmem.editing.contract import completed, identifying
from vitmem.editing.known import known_noisy
from vitmem.files import Damaged, check_name, digest, read_json
from vitmem.models.build import with_weights
from vitmem.models.weights import load_model, read_description
from vitmem.options import read_yaml
from vitmem.registry import Unknown, explained
from vitmem.runs.config import RunConfig, comparable, moved
from vitmem.runs.contents import EDIT
from vitmem.runs.folder import EDIT_FILE, WEIGHTS, RunFolder, difference, diverged, read_edit_json, weights_digest
from vitmem.runs.start import make_data, pretrained_sha256, start_model

BASE = "base"
_SECTIONS = ("seed", "train_on", "data", "noise", "model", "train")  # that every config.yaml has
REFERENCES = ("clean", "retrain", "early_stop")  # models beside a base model, in folders named after it


def path_beside(path: Path, kind: str) -> Path:
    """Return where the reference model of that kind lies, beside the base model in a folder."""
    path = path.resolve()
    return path.with_name(f"{path.name}-{kind}")


def saved_config(path: Path) -> RunConfig:
    """Return the configuration that a run folder holds.

    Raises:
        ValueError: it is malformed.
    """
    file = path / "config.yaml"
    content = read_yaml(file, own=True)
    if missing := [section for section in _SECTIONS if section not in content]:
        raise Damaged(f"{file} is malformed: {missing[0]} is missing; restore it, or train again with --force")
    try:
        with explained(_provenance(path)):
            return RunConfig.from_dict(content)
    except Unknown as error:  # of a plug-in or a package
        raise ValueError(f"{file}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{file} is malformed: {error}; restore it, or train again with --force") from error


def _provenance(path: Path) -> dict:
    """Return who made a run, as far as the folder says it."""
    try:
        return RunFolder(path).read_provenance()
    except ValueError:
        return {}


def saved_manifest(path: Path) -> NoiseManifest:
    """Return the manifest that a run folder holds.

    Raises:
        ValueError: it is malformed.
    """
    return NoiseManifest.load(path / "noise.csv", path / "noise.json")


def check_data(path: Path, manifest: NoiseManifest, data: MemorisationData) -> None:
    """Raise ValueError unless data are those that a run was trained on: images, labels, and which are wrong.

    Args:
        path: the run folder.
        manifest: that it holds.
        data: at hand.
    """
    saved, now = manifest.header(), data.manifest.header()
    if TEST_FINGERPRINT not in saved:  # trained before test splits were read, and measured without
        now.pop(TEST_FINGERPRINT, None)
    if saved != now:
        raise ValueError(
            f"the data at hand are not those that {path} was trained on ({difference(saved, now)}); restore them, or "
            "train another run, with another --name"
        )


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
        place: folder or file of the data, where it is not the one that they were in when the model was trained.
        cache_gb: see ``CurvatureCache``.
        beside: runs of the other models that attacks were compared with, opened so far.
    """

    path: Path
    known_data: MemorisationData | None = None
    verbose: bool = False
    known: float = 0.5
    place: str | None = None
    cache_gb: float = CACHE_GB
    latest: dict[str, tuple[str, Attempt]] = dataclasses.field(default_factory=dict)
    beside: dict[Path, "TrainedRun"] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(
        cls,
        path: Path | str,
        verbose: bool = False,
        known: float = 0.5,
        place: str | None = None,
        cache_gb: float = CACHE_GB,
    ) -> "TrainedRun":
        """Open a run folder.

        Args:
            path: the folder.
            verbose: see the class.
            known: see the class.
            place: see the class.
            cache_gb: see the class.

        Raises:
            ValueError: it is not a finished run folder, or something in it was changed.
        """
        folder = RunFolder(path)
        folder.check()
        if not folder.is_trained:
            raise ValueError(f"{path} is not finished training; run the command that started it again")
        run = cls(Path(path), verbose=verbose, known=known, place=place, cache_gb=check_cache_gb(cache_gb))
        moved(run.config, place)  # says it now if the data can be in no other place
        return run

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return saved_config(self.path)

    @cached_property
    def manifest(self) -> NoiseManifest:
        """Which training labels are wrong, as the folder says; the images need not be at hand."""
        return saved_manifest(self.path)

    @cached_property
    def data(self) -> MemorisationData:
        """The data module, refused unless it has the labels of the manifest."""
        data = self.known_data or make_data(moved(self.config, self.place))
        check_data(self.path, self.manifest, data)
        return data

    @cached_property
    def model(self) -> nn.Module:
        """The unedited model, in eval mode, on a GPU if there is one."""
        with explained(RunFolder(self.path).read_provenance()):
            return load_model(self.path).to(self.device)

    @cached_property
    def initial_state(self) -> dict[str, Tensor]:
        """The weights that training started from, built again from the seed or the file of pretrained weights.

        Raises:
            ValueError: the file is gone or another one, or the trained weights were folded into other units.
        """
        if self.is_adopted:
            raise ValueError(f"{self.path} was adopted: the weights that its training started from are not known")
        if self.config.train.tied_fixed < 1:
            raise ValueError(f"{self.path} was trained with train.tied_fixed: its start and its end cannot be compared")
        stored = RunFolder(self.path).read_provenance().get("pretrained_sha256")
        if pretrained_sha256(self.config) != stored:
            raise ValueError(f"{self.config.model.pretrained} is not the file that {self.path} started from")
        return start_model(self.config, read_description(self.path)["timm"])[0].state_dict()

    @cached_property
    def is_adopted(self) -> bool:
        """The model was trained elsewhere, so that nothing of its training is known."""
        return "adopted" in RunFolder(self.path).read_provenance()

    def start(self, checkpoint: str = "initial") -> dict[str, Tensor]:
        """Return ``initial_state``, or told ``early_stop`` the weights of that reference model."""
        return self.initial_state if checkpoint == "initial" else self.reference(checkpoint).model.state_dict()

    def reference(self, kind: str) -> "TrainedRun":
        """Return the reference model of that kind beside this run, opened once.

        Raises:
            ValueError: there is none, it is not finished, or it was not trained as this one.
        """
        return self.opened(path_beside(self.path, kind))

    def opened(self, path: Path) -> "TrainedRun":
        """Return another model of this experiment, opened once, after ``check_beside``."""
        if path not in self.beside:
            other = TrainedRun.open(path, place=self.place, cache_gb=self.cache_gb)
            self.check_beside(other)
            self.beside[path] = other
        return self.beside[path]

    @property
    def kind(self) -> str:
        """Which model of an experiment it is: base, or one of ``REFERENCES``."""
        if self.config.train_on != "noisy":
            return self.config.train_on
        stopped = self.config.train.early_stop and self.path.resolve().name.endswith("-early_stop")
        return "early_stop" if stopped else BASE

    def check_beside(self, other: "TrainedRun") -> None:
        """Raise ValueError unless another model was trained as this one, but for what makes one of them a reference."""

        def same(run: TrainedRun) -> dict:
            train = dataclasses.replace(run.config.train, early_stop=False)
            config = dataclasses.replace(comparable(run.config), train_on="noisy", train=train)
            return config.to_dict() | {"noise.csv": run.noise_sha256, "images": run.manifest.data_fingerprint}

        own, theirs = same(self), same(other)
        if own != theirs:
            raise ValueError(
                f"{other.path} cannot be compared with {self.path}: {difference(own, theirs)}; train it again with the "
                "settings of the base model, or move it away"
            )

    @property
    def device(self) -> torch.device:
        """Where models are edited and measured."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def cache(self) -> CurvatureCache:
        """Curvature of this run's model."""

        def announce(lines: list[str]) -> None:
            print("\n".join(lines if self.verbose else [f"{lines[0]} {lines[-1].strip()}"]), flush=True)

        return CurvatureCache(self.path / "factors", announce, self.cache_gb)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of ``model.safetensors``."""
        return RunFolder(self.path).read_provenance()["sha256"]["model.safetensors"]

    def known_noisy(self, share: float | None = None) -> Tensor:
        """Return N, bool: the wrong labels that edits with a forget set know.

        Args:
            share: of the wrong labels; the run's own by default.
        """
        to_forget = torch.from_numpy(self.manifest.to_forget)
        return known_noisy(to_forget, self.known if share is None else share, self.manifest.seed, self.config.seed)

    def share_known(self, edit_id: str = BASE) -> float:
        """Return the share of the wrong labels that an edit knew; the run's own for what was told of none."""
        told = None if edit_id == BASE else self.edit(edit_id).get("known")
        return told["share"] if told else self.known

    def edited(self) -> list[str]:
        """Return the ids of the edits that the folder holds."""
        names = (path.parent.name for path in self.path.glob(f"edits/*/{EDIT_FILE}"))
        return sorted(name for name in names if not name.startswith("."))

    def edit_folder(self, edit_id: str) -> Path:
        """Return where an edit lies.

        Raises:
            ValueError: the id is no name.
        """
        return self.path / "edits" / check_name(f"an edit in {self.path / 'edits'}", edit_id)

    def edit(self, edit_id: str) -> dict:
        """Return what the ``edit.json`` of an edit holds, checked with its weights.

        Raises:
            Damaged: it is malformed, or something in it was changed.
            ValueError: there is no such edit, or it is of another run.
        """
        folder = self.edit_folder(edit_id)
        content = read_edit_json(folder)
        cls = edits().get(content["name"])
        to = content["options"].get("to")
        gone = to in REFERENCES and not RunFolder(path_beside(self.path, to)).is_trained
        if cls is None or gone:  # of a package that is not installed here, or to a model that is gone
            return content
        options = identifying(cls, content["options"])
        told = content.get("known")
        if content["inputs"] != self.edit_inputs(content["name"], options, told and told["share"]):
            raise ValueError(
                f"{folder} is no edit of this run: it was made of other weights or labels, or its options were "
                f"changed; move it away, or make it again with --id {edit_id} --force"
            )
        return {**content, "options": completed(cls, content["options"])}

    def edit_inputs(self, name: str, options: Mapping, share: float | None) -> str:
        """Return what tells an edit of this run from those with other options, weights, labels or known examples.

        Args:
            name: registered name.
            options: as ``identity`` has them.
            share: of the wrong labels that it knows; None if it has no forget set.
        """
        inputs = {"name": name, "options": dict(options), "weights": self.weights_sha256, "noise": self.noise_sha256}
        if share:
            inputs["known"] = self.known_noisy(share).nonzero()[:, 0].tolist()
        if (to := options.get("to")) in REFERENCES:  # an earlier checkpoint of the same training
            inputs["to"] = self.reference(to).weights_sha256
        return digest(inputs)

    def weights_digest(self, edit_id: str) -> str:
        """Return what tells the weights of the base model or an edit from all others."""
        if edit_id == BASE:
            return self.weights_sha256
        return weights_digest(self.edit(edit_id))

    def has_weights(self, edit_id: str) -> bool:
        """Tell whether the weights of the base model or an edit are at hand."""
        folder = self.edit_folder(edit_id)
        if edit_id == BASE or edit_id in self.latest:
            return True
        told = read_json(folder / EDIT_FILE, EDIT)  # a file of which it tells nothing was left by a killed command
        return told is not None and told["weights_sha256"] is not None and (folder / WEIGHTS).is_file()

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
        file = self.stored_weights(edit_id)
        return load_model(file.parent, described=self.path).to(self.device)  # of this model; the file beside is a copy

    def stored_weights(self, edit_id: str) -> Path:
        """Return the file of an edit's weights, checked.

        Raises:
            ValueError: there is no such edit, or its weights are not stored.
        """
        folder, content = self.edit_folder(edit_id), self.edit(edit_id)
        if diverged(content):
            raise ValueError(f"{folder} holds no weights: the edit {content['status']}")
        if content["weights_sha256"] is None:
            why = "`vitmem clean` removed them" if content.get("removed_sha256") else "save_weights was false"
            raise ValueError(
                f"{folder} holds no weights ({why}); make them with `vitmem edit {content['name']} {self.path} "
                f"--id {edit_id} --force` and the options in edit.json"
            )
        return folder / WEIGHTS

    @cached_property
    def noise_sha256(self) -> str:
        """SHA-256 of the manifest's table."""
        return self.manifest.header()["sha256"]
