"""An encoder of observations: images are cut into patches, each of which a layer reads alike."""

from collections.abc import Mapping

from torch import Tensor, nn


class Patches(nn.Module):
    """Images [B, height, width, channels] -> features [B, F].

    Args:
        shapes: of the arrays of an observation, by name; here of one image.
        width: of the network that reads the features.
    """

    size = 2  # of a patch

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], width: int) -> None:
        super().__init__()
        ((height, breadth, channels),) = shapes.values()
        patches = (height // self.size) * (breadth // self.size)
        self.patch = nn.Conv2d(channels, 8, kernel_size=self.size, stride=self.size)
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Flatten(), nn.Linear(8 * patches, width), nn.ReLU()
        )

    def forward(self, image: Tensor) -> Tensor:
        """One image per row; bytes are numbers from 0 to 1 already."""
        return self.layers(self.patch(image.permute(0, 3, 1, 2)))  # [B, C, H, W] -> [B, F]
