"""Which vision transformer, as options: nothing here imports timm or torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal

from vitmem.registry import Registry, registered

# Names that `list` explains; any other `vit_*` name of timm works too.
SIZES = {
    "vit_tiny_patch16_224": "width 192, depth 12, 3 heads, 5.7 M parameters (Touvron et al. 2021, table 1)",
    "vit_small_patch16_224": "width 384, depth 12, 6 heads, 22 M parameters (Touvron et al. 2021, table 1)",
    "vit_base_patch16_224": "width 768, depth 12, 12 heads, 86 M parameters (Dosovitskiy et al. 2020, table 1)",
    "vit_large_patch16_224": "width 1024, depth 24, 16 heads, 307 M parameters (Dosovitskiy et al. 2020, table 1)",
}


def models() -> Registry[Callable]:
    """Return the model builders that plug-ins add, by name (group ``vitmem.models``).

    A builder maps the shape of the images (channels, height, width), the number of classes K and a dict of plain
    options to a module, which maps B C H W images to B K logits.
    """
    everything = registered("vitmem.models", SIZES)
    found: Registry[Callable] = Registry({name: everything[name] for name in everything.origins})
    found.origins = everything.origins
    return found


LARGEST, MOST_BLOCKS = 2**16, 2**10  # of any size, and of the depth: far above what any model has


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer of timm; a size that is given replaces the one that the name implies.

    Args:
        name: a ``vit_*`` name of timm; auto fits the images: a ViT-Base from 128 pixels on, for smaller ones a small
            transformer whose patches are at most 4 or 8 pixels wide.
        width: embedding width; a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads per block.
        patch: patch size in pixels; must divide the image's height and width.
        mlp_ratio: hidden width of an MLP over ``width``.
        pool: what the classifier reads: the class token, or the mean of the patch tokens.
        dropout: dropout rate after positions, projections and MLPs, in [0, 1).
        drop_path: stochastic depth rate of the last block, rising linearly from 0, in [0, 1).
        pretrained: file of weights to start from (.safetensors, or .pth without pickled code), or a folder with one;
            resized to the images, with a new head if the classes differ in number. None: random weights.
        options: of a model that a plug-in builds; timm's have none.
    """

    name: str = "auto"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    patch: int | None = None
    mlp_ratio: float | None = None
    pool: Literal["token", "avg"] = "token"
    dropout: float = 0.0
    drop_path: float = 0.0
    pretrained: str | None = None
    options: dict | None = field(default=None, metadata={"added": True})

    def __post_init__(self):
        for option in ("width", "depth", "heads", "patch", "mlp_ratio"):
            value = getattr(self, option)
            most = MOST_BLOCKS if option == "depth" else LARGEST
            if value is not None and not 0 < value <= most:
                raise ValueError(f"model.{option} is {value}; it must be positive, and at most {most}")
        for option in ("dropout", "drop_path"):
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"model.{option} is {getattr(self, option)}; it must be in [0, 1)")
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")

    def timm_arguments(self, image_shape: tuple[int, int, int], num_classes: int) -> dict:
        """Return the arguments with which ``timm.create_model`` builds this model.

        Args:
            image_shape: channels, height, width.
            num_classes: K.
        """
        if self.name in models():
            return self._builder(image_shape, num_classes)
        if self.options:
            raise ValueError(
                f"model.options are for a model that a plug-in builds, and {self.name} is none: see --plugin"
            )
        channels, height, width = image_shape
        sizes = {option: getattr(self, option) for option in ("width", "depth", "heads", "patch", "mlp_ratio")}
        name = self.name
        plain, _, tag = name.partition(".")
        if tag and self.pretrained is None:
            raise ValueError(
                f"model.name {self.name} names weights of timm ({tag}), which would not be loaded: give model.name "
                f"{plain}, and the file of those weights as model.pretrained"
            )
        if name == "auto":
            name, fitting = "vit_base_patch16_224", fitting_sizes(height, width)
            sizes = {option: fitting.get(option) if size is None else size for option, size in sizes.items()}
            if sizes["width"] and sizes["heads"] and sizes["width"] % sizes["heads"]:
                raise ValueError(
                    f"model.width {sizes['width']} is not a multiple of model.heads {sizes['heads']}; give both"
                )
        arguments = {
            "model_name": name,
            "img_size": [height, width],
            "in_chans": channels,
            "num_classes": num_classes,
            "global_pool": self.pool,
        }
        if self.dropout:
            arguments |= dict.fromkeys(("drop_rate", "proj_drop_rate", "pos_drop_rate"), self.dropout)
        if self.drop_path:
            arguments["drop_path_rate"] = self.drop_path
        renamed = {"width": "embed_dim", "depth": "depth", "heads": "num_heads", "patch": "patch_size"}
        for ours, theirs in {**renamed, "mlp_ratio": "mlp_ratio"}.items():
            if sizes[ours] is not None:
                arguments[theirs] = sizes[ours]
        return arguments

    def _builder(self, image_shape: tuple[int, int, int], num_classes: int) -> dict:
        """Return the arguments with which ``plugged.build`` builds a plug-in's model."""
        default = ModelConfig()
        ours = [f.name for f in fields(self) if f.name not in ("name", "options")]
        if given := [name for name in ours if getattr(self, name) != getattr(default, name)]:
            raise ValueError(
                f"model.{given[0]} is for models of timm; {self.name}, of {models().origins[self.name]}, takes "
                "model.options"
            )
        facts = {"image_shape": list(image_shape), "num_classes": num_classes, "options": self.options or {}}
        return {"builder": self.name, **facts}


def fitting_sizes(height: int, width: int) -> dict[str, int]:
    """Return the sizes of a transformer that fits images of so many pixels; none from 128 on, where ViT-Base fits.

    Patches divide the image and are at most 4 pixels wide up to 48 pixels, 8 above.
    """
    side = min(height, width)
    if side >= 128:
        return {}
    most = 4 if side <= 48 else 8
    patch = next(p for p in range(most, 0, -1) if height % p == 0 and width % p == 0)
    return (
        {"width": 128, "depth": 4, "heads": 4, "patch": patch}
        if side <= 16
        else {"width": 192, "depth": 6, "heads": 3, "patch": patch}
    )
