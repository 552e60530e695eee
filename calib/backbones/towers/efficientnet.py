"""EfficientNet-Lite0 with a linear projection: the image tower of the embedded backbone, in timm's layout."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

# Kernel, stride, expansion, channels, blocks of each stage.
# Source: Tan and Le, EfficientNet, arXiv:1905.11946, Table 1; Lite0 is B0 without squeeze-and-excitation,
# with ReLU6 for Swish (github.com/tensorflow/tpu, models/official/efficientnet/lite).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD = 32, 1280  # channels
EPSILON = 1e-3  # of the norms, as TensorFlow trained them


class _Conv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: what is uneven goes to the right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels, out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        height, width = (self._missing(size) for size in x.shape[-2:])
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))

    def _missing(self, size: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class _Norm(nn.BatchNorm2d):
    """A batch norm, with ReLU6 behind it where `active`."""

    def __init__(self, channels: int, *, active: bool = True) -> None:
        super().__init__(channels, eps=EPSILON)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu6(x, inplace=True) if self.active else x


class _Separable(nn.Module):
    """A depthwise and a pointwise convolution: the block of the first stage."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _Conv(channels, channels, kernel, groups=channels)
        self.bn1 = _Norm(channels)
        self.conv_pw = _Conv(channels, out, 1)
        self.bn2 = _Norm(out, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))


class _Inverted(nn.Module):
    """A depthwise convolution between two pointwise ones, around it a residual where shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.residual = stride == 1 and channels == out
        self.conv_pw = _Conv(channels, inner, 1)
        self.bn1 = _Norm(inner)
        self.conv_dw = _Conv(inner, inner, kernel, stride, groups=inner)
        self.bn2 = _Norm(inner)
        self.conv_pwl = _Conv(inner, out, 1)
        self.bn3 = _Norm(out, active=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.residual else y


class _Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _Conv(3, STEM, 3, 2)
        self.bn1 = _Norm(STEM)
        self.blocks = nn.Sequential()
        channels = STEM
        for kernel, stride, expansion, out, count in STAGES:
            stage = nn.Sequential()
            for index in range(count):
                first = stride if index == 0 else 1
                stage.append(
                    _Separable(channels, out, kernel)
                    if expansion == 1
                    else _Inverted(channels, out, kernel, first, expansion)
                )
                channels = out
            self.blocks.append(stage)
        self.conv_head = _Conv(channels, HEAD, 1)
        self.bn2 = _Norm(HEAD)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.bn1(self.conv_stem(x)))
        return F.adaptive_avg_pool2d(self.bn2(self.conv_head(x)), 1).flatten(1)


class EfficientNetLite0(nn.Module):
    """The image tower: (B, 3, H, W) -> (B, D).

    Args:
        embed_dim: D.
        image_size: Height and width of the images.
        bias: Whether the projection has one.
    """

    def __init__(self, embed_dim: int, *, image_size: int, bias: bool) -> None:
        super().__init__()
        self.image_size = (image_size, image_size)
        self.trunk = _Trunk()
        self.head = nn.Sequential()
        self.head.add_module("proj", nn.Linear(HEAD, embed_dim, bias=bias))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D), not normalised."""
        features: Tensor = self.head(self.trunk(images))
        return features
