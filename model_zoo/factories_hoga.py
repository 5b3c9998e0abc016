"""ResNets with the high-order group attention of AutoLA, in the published genotype, in every unit.

=================================  ==========================================================
``hoga_resnet20_cifar10``          ResNet for 32x32 pixels (20, 32, 56, 110)
``hoga_resnet20_w64_cifar100``     base width 64 (20, 32, 56), 100 classes
``hoga_resnet50``                  ResNet v1b (18 … 152), 1000 classes; in bottlenecks behind the
                                   3x3 convolution
``hoga_wide_resnet50_2``           wide ResNet v1b (18, 50, 101), 1000 classes
``hoga_resnet18_w16_digits``       a quarter-width ResNet-18 for 10 digits, 64 px
``autola_search_resnet20``         super-network of a search on CIFAR-10
=================================  ==========================================================

Another genotype: ``get_model("hoga_resnet20_cifar10", attention="hoga:found.json")``, or its name,
or its line (:mod:`gluon_attn.papers.autola.genotype`). The paper's controls are
``attention="hog_se"`` and
``"hog_cbam"``. Every other ResNet of the zoo takes the block too:
``get_model("vaa_resnet101", attention="hoga")``.
"""

from __future__ import annotations

from gluon_attn.nets import DEPTHS, CifarResNet
from gluon_attn.nets.init import xavier
from gluon_attn.papers.autola import SuperNet
from model_zoo.factories import infer_shapes, plain_resnet
from model_zoo.factories_attention import small_resnet, wider_resnet
from model_zoo.names import register


def search_resnet(depth=20, classes=10, input_size=32, width=16):
    """Build the super-network of a search on a ResNet of three stages.

    Args:
        depth: 6 n + 2 layers, from 8 on.
        classes: Length of the logits.
        input_size: Side of the input in pixels; only used to infer parameter shapes.
        width: Filters of the first stage.

    Raises:
        ValueError: Another depth.
    """
    units, rest = divmod(depth - 2, 6)
    if units < 1 or rest:
        raise ValueError(f"depth={depth}: valid are 8, 14, 20, 26, …")
    net = SuperNet(CifarResNet(units, width, classes=classes))
    net.input_size = (input_size, input_size)
    net.output.weight.init = xavier()
    return infer_shapes(net)


def _register_all():
    register("autola_search_resnet20", search_resnet)
    hoga = {"attention": "hoga"}
    for depth in (20, 32, 56, 110):
        register(f"hoga_resnet{depth}_cifar10", small_resnet, depth=depth, **hoga)
    for depth in (20, 32, 56):
        wide = {"depth": depth, "classes": 100, "width": 64}
        register(f"hoga_resnet{depth}_w64_cifar100", small_resnet, **wide, **hoga)
    for depth in DEPTHS:
        register(f"hoga_resnet{depth}", plain_resnet, depth=depth, version="v1b", **hoga)
    for depth in (18, 50, 101):
        register(f"hoga_wide_resnet{depth}_2", wider_resnet, depth=depth, **hoga)
    digits = {"depth": 18, "version": "v1b", "width": 16, "input_size": 64, "classes": 10}
    register("hoga_resnet18_w16_digits", plain_resnet, **digits, **hoga)


_register_all()
