"""Training of keypoint nets: heat-maps by squared error, all parameters."""

from __future__ import annotations

from gluon_attn.coco.keypoints_decode import REFINEMENTS, SHIFTS
from gluon_attn.coco.keypoints_loss import HeatmapLoss
from gluon_attn.method import METHODS, Method

ENCODINGS = ("rounded", "unbiased")


@METHODS.register("simple_pose")
class SimplePoseMethod(Method):
    """Train a :class:`gluon_attn.coco.keypoints.SimplePose`.

    A batch's ``label`` are heat-maps ``(B, K, h, w)``, its ``mask`` their weights ``(B, K)``. All
    options belong to the loader and to the evaluation; defaults are those of Simple Baselines'
    released code, but for ``refine`` and ``flip_shift`` (docs/keypoints.md).

    Raises:
        ValueError: The net gives no heat-maps, or an option is not valid.
    """

    OPTIONS = {
        "sigma": 2.0,  # of the Gaussians, in pixels of the heat-map
        "encoding": "rounded",  # or 'unbiased'
        "margin": 1.25,  # of the region around a box
        "scale": 0.3,  # deviation and bound of its random size
        "rotation": 40.0,  # deviation of its random angle, in degrees; at most twice that
        "rotated": 0.6,  # share of the people that are turned
        "refine": "dark",  # how places are read from heat-maps: 'dark', 'quarter', 'none'
        "flip_test": True,  # whether heat-maps of the mirrored picture are averaged in
        "flip_shift": "subpixel",  # 'subpixel', 'pixel', 'none'
        "suppression": 0.9,  # OKS from which the worse of two people of a picture is left out
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.net, "task", None) != "keypoints":
            raise ValueError(
                f"method 'simple_pose' trains models named simple_pose…, not a "
                f"{type(self.net).__name__}"
            )
        valid = {"encoding": ENCODINGS, "refine": REFINEMENTS, "flip_shift": tuple(SHIFTS)}
        for name, names in valid.items():
            if self.options[name] not in names:
                raise ValueError(f"{name}={self.options[name]!r}: valid are {', '.join(names)}")
        self._loss = HeatmapLoss()
        self._loss.hybridize()

    def losses(self, outputs, batch):
        """Return ``{'heatmap': (B,)}``."""
        return {"heatmap": self._loss(outputs["heatmaps"], batch.label, batch.mask)}
