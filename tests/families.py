"""Tiny classifiers of every family that users bring, on 16 x 16 images of 3 channels with 5 classes."""

import pytest
import torch
from torch import Tensor, nn

CLASSES, PIXELS = 5, 16
_SMALL = {"img_size": PIXELS, "patch_size": 4, "embed_dim": 16, "num_heads": 2}
_TIMM = {
    "timm vit": ("vit_tiny_patch16_224", _SMALL | {"depth": 2}),
    "timm deit3": ("deit3_small_patch16_224", _SMALL | {"depth": 2}),
    "timm deit, distilled": ("deit_tiny_distilled_patch16_224", _SMALL | {"depth": 2}),
    "timm eva02": ("eva02_tiny_patch14_224", _SMALL | {"depth": 2}),
    "timm beit": ("beit_base_patch16_224", _SMALL | {"depth": 2}),
    "timm swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": PIXELS, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2)},
    ),
}
FAMILIES = (*_TIMM, "torchvision vit", "Hugging Face ViT", "plain CNN", "ResNet")


def family(name: str) -> nn.Module:
    """Return a classifier of a family with weights that are not near zero; skip where its library is missing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _built(name).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _built(name: str) -> nn.Module:
    if name in _TIMM:
        import timm

        architecture, sizes = _TIMM[name]
        return timm.create_model(architecture, num_classes=CLASSES, **sizes)
    if name == "torchvision vit":
        from torchvision.models import VisionTransformer

        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        return VisionTransformer(PIXELS, 4, num_classes=CLASSES, **sizes)
    if name == "Hugging Face ViT":
        hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
        return hf.ViTForImageClassification(hf.ViTConfig(image_size=PIXELS, patch_size=4, num_labels=CLASSES, **sizes))
    if name == "ResNet":
        from torchvision.models.resnet import BasicBlock

        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            BasicBlock(8, 8), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(48, CLASSES),
    )  # fmt: skip


def images(examples: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images N 3 H W, given labels N, of which a fifth are wrong, and true labels N."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (examples,), generator=generator)
    given = torch.where(torch.arange(examples) % 5 == 0, (true + 1) % CLASSES, true)
    return torch.randn(examples, 3, PIXELS, PIXELS, generator=generator), given, true
