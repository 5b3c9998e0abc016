"""All models of the zoo: a factory per family, one table of names, and ``get_model``.

=====================================  ==========================================================
``resnet50_v1``, ``_v1b``              ResNet for 1000 ImageNet classes (18, 34, 50, 101, 152)
``resnet101_wider``                    plain ResNet for the 14 WIDER attributes: the baseline
``vaa_resnet101``, ``…_wider``         VAA as in the supplement, 14 outputs
``…_v1b…``                             the same on the bias-free backbone
``vaa_resnet101_released_wider``       VAA as in the authors' repository (three taps, wider heads)
``awmt_resnet50``                      with dropout 0.5 before the classifier, for any attributes
``efficientnet_lite0``                 EfficientNet-Lite (0 at 224 px, 1 at 240, 2 at 260);
                                       also ``vaa_…`` and ``awmt_…``
``se_resnet50``                        a block in every unit of ResNet v1b, 1000 classes
``wide_resnet50_2``                    wide ResNet v1b (18, 50, 101); also ``hoga_…``
``cifar_resnet20_cifar10``             ResNet for 32x32 pixels (20, 32, 44, 56, 110), also
                                       ``_cifar100``; ``resnet20_cifar10`` is the same
``se_resnet20_cifar10``                with a block
``cifar_resnet20_w64_cifar100``        base width 64, as in AutoLA (20, 32, 56); also with a block
``autola_search_resnet20``             super-network of a search on CIFAR-10
``vgg19``, ``vgg19_bn``                VGG for 1000 ImageNet classes (11, 13, 16, 19)
``reid_resnet50_market``, ``_duke``    ResNet-50 v1b that returns logits and the embedding
``…_w16_synthetic``, ``…_digits``      narrow nets that train on a CPU in minutes
``…_clothing``, ``…_garments``         the same for the photographs of two data sets
=====================================  ==========================================================

Every block of ``BLOCKS`` is in the table; every ResNet takes one, HOGA in any genotype too:
``get_model("vaa_resnet101", attention="hoga:found.json")``. Detectors and keypoint nets are
registered by :mod:`gluon_attn.coco.models` when one of them is asked for.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
from typing import Any, Callable

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from gluon_attn.blocks import BLOCKS
from gluon_attn.core.registry import Registry, unknown_name
from gluon_attn.nets import (
    DEPTHS,
    VGG_DEPTHS,
    CifarResNet,
    cifar_resnet,
    efficientnet_lite,
    resnet,
    vgg,
    wide_resnet,
)
from gluon_attn.nets.efficientnet_lite import VARIANTS
from gluon_attn.nets.embedding import EmbeddingNet, keep_resolution
from gluon_attn.nets.init import xavier
from gluon_attn.papers.autola import SuperNet
from gluon_attn.papers.vaa import VAA
from model_zoo import store
from model_zoo.params_io import load_into

# Order of the annotation files; see docs/data.md.
WIDER_ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal", "shorts", "jeans",
    "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip
ATTRIBUTES = len(WIDER_ATTRIBUTES)
RELEASED_TAPS = ("stage3_activation19", "stage3_activation22", "stage4_activation2")
# Found by the search with seed 0 of the controlled experiment of AutoLA on single digits.
SEARCHED = (
    "sep_conv_3x3_spatial@0/SE_A_M@0+sep_conv_3x3@1"
    "/sep_conv_3x3@0+skip_connect@1+sep_conv_3x3_spatial@2/SE_A_M@0+CBAM@1+CBAM@2+SE_A_M@3"
)
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
COCO = "gluon_attn.coco.models"  # registers the models below; a layer above this one

Attention = Any  # name of a block, a block, or ``{"stage4": block}``


class _Models(Registry):
    """The registry of models: names in any case, and of an unknown one the nearest."""

    def get(self, name: str) -> Any:
        return super().get(self.own_name(name))

    def own_name(self, name: str) -> str:
        """Return the registered name that is meant: ``resnet44_cifar10`` has a prefix here."""
        for key in (name.lower(), f"cifar_{name.lower()}"):
            if key in self:
                return key
        spelled = {own.replace("cifar_", ""): own for own in self.names()}
        near = difflib.get_close_matches(name.lower().replace("cifar_", ""), spelled, n=5)
        hint = f"did you mean {' or '.join(repr(spelled[n]) for n in near)}? " if near else ""
        raise ValueError(f"unknown model '{name}'; {hint}`gluon-attn models` lists all {len(self)}")


MODELS = _Models("model")


def register(name: str, factory: Callable[..., HybridBlock], **fixed: Any) -> None:
    """Register ``factory`` under ``name`` with other defaults, which stay overridable."""
    signature = inspect.signature(factory)
    entry: Any = functools.partial(factory, **fixed)
    entry.__signature__ = signature.replace(
        parameters=[
            p.replace(default=fixed.get(p.name, p.default)) for p in signature.parameters.values()
        ]
    )
    entry.__doc__ = factory.__doc__
    MODELS.register(name)(entry)


def list_models(pretrained: bool = False) -> list[str]:
    """Return the names of all models, sorted; with ``pretrained`` those that weights are known of.

    A mirror's table counts too, see :func:`model_zoo.store.entries`.
    """
    if pretrained:
        return [name for name in store.pretrained_model_list() if name in MODELS]
    return MODELS.names()


def get_model(
    name: str,
    pretrained: bool = False,
    root: str | None = None,
    classes: int | None = None,
    ctx: Any = None,
    **kwargs: Any,
) -> HybridBlock:
    """Build a model by name; ``net.output_names`` names its outputs.

    Args:
        name: A name from :func:`list_models`, in any case.
        pretrained: Load the published weights (``model_zoo.store.entries()`` lists them; small ones
            come with the package); the net has their classes and is built as it was trained.
            Without, the parameters are not initialised: call ``net.initialize()``.
        root: Folder that holds weight files; it goes before ``$MXNET_HOME/models`` and
            ``~/.mxnet/models``.
        classes: Number of outputs; each name has its own default.
        ctx: Device or list of devices, CPU by default. Used with ``pretrained``.
        **kwargs: Further arguments of the model (``input_size``, ``taps``, ``version``, …).

    Raises a ValueError that lists what is valid for an unknown name, argument, tap or variant, and
    if no weights are known or they do not fit ``kwargs``. A FileNotFoundError says where to put
    weights that are not at hand.
    """
    valid = _arguments_of(name)
    if classes is not None:
        kwargs["classes"] = classes
    for key in kwargs:
        if key not in valid:
            raise ValueError(unknown_name(f"argument of {name}", key, valid))
    side = kwargs.get("input_size", 1)
    if isinstance(side, bool) or not isinstance(side, numbers.Integral) or side < 1:
        raise ValueError(f"input_size={side!r}: one number of pixels, 1 or more")
    factory = MODELS.get(name)
    if not pretrained:
        return factory(**kwargs)
    path, entry = store.find(MODELS.own_name(name), root)
    net = factory(**trained_options(name, entry, kwargs))
    net.initialize(mx.init.Zero(), ctx=ctx or mx.cpu())
    load_into(net, path)
    return net


def trained_options(
    name: str, entry: store.WeightEntry, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of :func:`get_model` that build the net which weights were made for.

    They are ``given`` and, where it lacks them, the model arguments, input size and number of
    classes of the training run. Raises a ValueError if the model has not such an argument, or
    another number of classes was asked for.
    """
    valid, options, recipe = _arguments_of(name), dict(given or {}), entry.recipe or {}
    for key, value in {**recipe.get("model_options", {}), **(entry.options or {})}.items():
        if key not in valid:
            raise ValueError(
                f"{entry.where}: recipe: {unknown_name(f'argument of {name}', key, valid)}"
            )
        options.setdefault(key, value)  # the net that was trained
    if recipe and "input_size" in valid:
        options.setdefault("input_size", recipe["input_size"])
    stored = len(entry.classes or ())
    if stored and options.setdefault("classes", stored) != stored:
        raise ValueError(
            f"the weights of {name} have {stored} classes, classes={options['classes']} "
            "was asked for; leave classes out, or load the backbone only"
        )
    return options


def _arguments_of(name: str) -> list[str]:
    return list(inspect.signature(MODELS.get(name)).parameters)


# Factories. ``input_size`` is the side of the input in pixels; without other words it only serves
# to infer the shapes of parameters.


def plain_resnet(
    depth: int = 101,
    version: str = "v1",
    classes: int = 1000,
    input_size: int = 224,
    *,
    width: int = 64,
    taps: Any = (),
    attention: Attention = None,
    dropout: float = 0.0,
) -> HybridBlock:
    """Build a ResNet; ``dropout`` of the features before the classifier, in training."""
    net = resnet(depth, version, classes, width, taps=taps, attention=attention)
    return _classifier(net, input_size, dropout)


def small_resnet(
    depth: int = 20,
    classes: int = 10,
    input_size: int = 32,
    width: int = 16,
    *,
    taps: Any = (),
    attention: Attention = None,
    dropout: float = 0.0,
) -> HybridBlock:
    """Build a ResNet of three stages for small images; arguments as ``plain_resnet``."""
    net = cifar_resnet(depth, classes, width, taps=taps, attention=attention)
    return _classifier(net, input_size, dropout)


def wider_resnet(
    depth: int = 50,
    factor: int = 2,
    classes: int = 1000,
    input_size: int = 224,
    *,
    width: int = 64,
    taps: Any = (),
    attention: Attention = None,
    dropout: float = 0.0,
) -> HybridBlock:
    """Build a wide ResNet v1b, ``factor`` times as wide; arguments as ``plain_resnet``."""
    net = wide_resnet(depth, factor, classes, width, taps=taps, attention=attention)
    return _classifier(net, input_size, dropout)


def vaa_resnet(
    depth: int = 101,
    version: str = "v1",
    classes: int = ATTRIBUTES,
    input_size: int = 224,
    *,
    width: int = 64,
    taps: Any = None,
    variant: str = "supplement",
    attention: Attention = None,
) -> HybridBlock:
    """Build VAA on a ResNet; without ``taps``, on the last activation of stages 3 and 4.

    ``width`` is the backbone's base width, 64 in the paper; the attention modules scale with it.
    """
    backbone = resnet(depth, version, classes, width, taps=taps, attention=attention)
    return _infer_shapes(VAA(backbone, (input_size, input_size), variant, width / 64))


def plain_efficientnet(
    number: int = 0,
    classes: int = 1000,
    input_size: int = 224,
    taps: Any = (),
    *,
    attention: Attention = None,
    dropout: float = 0.2,
) -> HybridBlock:
    """Build an EfficientNet-Lite; ``dropout`` is that before the classifier in training."""
    size = (input_size, input_size)
    net = efficientnet_lite(number, size, classes=classes, taps=taps, attention=attention)
    return _classifier(net, input_size, dropout, start=None)


def vaa_efficientnet(
    number: int = 0,
    classes: int = ATTRIBUTES,
    input_size: int = 224,
    taps: Any = None,
    *,
    variant: str = "supplement",
    attention: Attention = None,
    scale: float = 0.25,
) -> HybridBlock:
    """Build VAA on an EfficientNet-Lite: taps at 1/16 of the input size and on the last map.

    ``scale`` is the factor on the filters of the attention modules. At 1, as in the paper, their
    last convolution alone (512 x 512 x 14 x 14) has eleven times the backbone's parameters.
    """
    size = (input_size, input_size)
    backbone = efficientnet_lite(number, size, classes=classes, taps=taps, attention=attention)
    return _infer_shapes(VAA(backbone, size, variant, scale))


def plain_vgg(
    depth: int = 16,
    classes: int = 1000,
    input_size: int = 224,
    batch_norm: bool = False,
    *,
    width: int = 64,
    hidden: int = 4096,
    taps: Any = (),
    pool: int = 0,
) -> HybridBlock:
    """Build a VGG; ``input_size`` fixes the size of the first dense layer unless ``pool`` does.

    ``pool`` is the side to which the last maps are pooled in front of it, 0 for no such pooling:
    with 7, weights made at 224 pixels fit every input size.
    """
    net = vgg(depth, classes, batch_norm, width, hidden=hidden, taps=taps, pool=pool or None)
    net.input_size = (input_size, input_size)
    return _infer_shapes(net)


def reid_resnet(
    depth: int = 50,
    version: str = "v1b",
    classes: int = 751,
    input_size: int = 256,
    *,
    width: int = 64,
    attention: Attention = None,
    last_stride: int = 2,
) -> HybridBlock:
    """Build a ResNet with the outputs logits and embedding, for images twice as high as wide.

    ``input_size`` is the height of the input in pixels; its width is half of it. ``last_stride`` is
    the stride of the last stage, 2 as published or 1.
    """
    if input_size % 2:
        raise ValueError(f"input_size={input_size!r}: the height must be even, the width is half")
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride={last_stride!r}: valid are 1 and 2")
    net = resnet(depth, version, classes, width, attention=attention)
    if last_stride == 1:
        keep_resolution(net)
    net.output.weight.init = xavier()
    net = EmbeddingNet(net)
    net.input_size = (input_size, input_size // 2)
    return _infer_shapes(net)


def search_resnet(
    depth: int = 20, classes: int = 10, input_size: int = 32, width: int = 16
) -> HybridBlock:
    """Build the super-network of a search on a ResNet of 6 n + 2 layers in three stages."""
    units, rest = divmod(depth - 2, 6)
    if units < 1 or rest:
        raise ValueError(f"depth={depth}: valid are 8, 14, 20, 26, …")
    return _classifier(SuperNet(CifarResNet(units, width, classes=classes)), input_size)


def _classifier(
    net: HybridBlock,
    input_size: int,
    dropout: float = 0.0,
    start: Callable[[], Any] | None = xavier,
) -> HybridBlock:
    """Complete a net with ``features`` and ``output`` as a model of the zoo."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: valid are 0 (none) to below 1")
    if dropout:
        net.features.add(nn.Dropout(dropout))  # has no parameters, so weight files stay the same
    net.input_size = (input_size, input_size)
    if start is not None:
        net.output.weight.init = start()
    return _infer_shapes(net)


def _infer_shapes(net: HybridBlock) -> HybridBlock:
    """Complete all parameter shapes now, so that nothing waits for the first forward pass."""
    net.infer_shape(mx.nd.zeros((1, 3) + tuple(net.input_size)))
    return net


# The table


def _imagenet_and_attributes(blocks: list[str]) -> None:
    for depth in DEPTHS:
        for version, infix in (("v1", ""), ("v1b", "_v1b")):
            net = {"depth": depth, "version": version}
            register(f"resnet{depth}_{version}", plain_resnet, **net)
            register(f"resnet{depth}{infix}_wider", plain_resnet, classes=ATTRIBUTES, **net)
            for suffix in ("", "_wider"):
                register(f"vaa_resnet{depth}{infix}{suffix}", vaa_resnet, **net)
        for block in blocks:
            register(f"{block}_resnet{depth}", plain_resnet, attention=block, **net)
    register("vaa_resnet101_released_wider", vaa_resnet, taps=RELEASED_TAPS, variant="released")
    register("awmt_resnet50", plain_resnet, depth=50, dropout=0.5, classes=ATTRIBUTES)
    for depth in (18, 50, 101):
        register(f"wide_resnet{depth}_2", wider_resnet, depth=depth)
        register(f"hoga_wide_resnet{depth}_2", wider_resnet, depth=depth, attention="hoga")
    for depth in VGG_DEPTHS:
        register(f"vgg{depth}", plain_vgg, depth=depth)
        register(f"vgg{depth}_bn", plain_vgg, depth=depth, batch_norm=True)
    for number, variant in VARIANTS.items():
        net = {"number": number, "input_size": variant.input_size}
        name = f"efficientnet_lite{number}"
        register(name, plain_efficientnet, dropout=variant.dropout, **net)
        register(f"vaa_{name}", vaa_efficientnet, **net)
        register(f"awmt_{name}", plain_efficientnet, dropout=0.5, classes=ATTRIBUTES, **net)
    register("reid_resnet50_market", reid_resnet, classes=751)
    register("reid_resnet50_duke", reid_resnet, classes=702)


def _cifar(blocks: list[str]) -> None:
    for block in ("", *blocks):
        options = {"attention": block} if block else {}
        for depth in CIFAR_DEPTHS:
            name = f"{block or 'cifar'}_resnet{depth}"
            for classes in (10, 100) if not block else (10,):
                net = {"depth": depth, "classes": classes, **options}
                register(f"{name}_cifar{classes}", small_resnet, **net)
            if depth in (20, 32, 56):
                net = {"depth": depth, "classes": 100, "width": 64, **options}
                register(f"{name}_w64_cifar100", small_resnet, **net)
    register("autola_search_resnet20", search_resnet)


def _narrow(blocks: list[str]) -> None:
    """Nets that train on a CPU in minutes; weights of many come with the package.

    But for AutoLA's the method leaves no trace in the net: names say how the weights were made.
    """
    people = {"depth": 18, "width": 16, "input_size": 112}
    register("vaa_resnet18_w16_synthetic", vaa_resnet, **people)
    for name in ("", "se_"):
        options = {"attention": "se"} if "se_" in name else {}
        register(
            f"{name}resnet18_w16_synthetic", plain_resnet, classes=ATTRIBUTES, **people, **options
        )
    for name in ("", "icasc_", "se_", "dreal_se_"):  # classes: those of data/clothing.py
        options = {"attention": "se"} if "se_" in name else {}
        register(f"{name}resnet18_w16_garments", plain_resnet, classes=14, **people, **options)
    register("resnet18_w16_clothing", plain_resnet, classes=22, **people)
    # Maps of 14 x 14 and 7 x 7, as the paper's taps have at 224 pixels.
    register("vaa_resnet18_w16_clothing", vaa_resnet, classes=22, **people,
             taps=["stage2_activation1", "stage3_activation1"])  # fmt: skip
    lite: dict[str, Any] = {"classes": 22, "input_size": 224}
    register("efficientnet_lite0_clothing", plain_efficientnet, **lite)
    register("vaa_efficientnet_lite0_clothing", vaa_efficientnet, scale=0.0625, **lite)
    lite = {"classes": 15, "input_size": 112, "dropout": 0.5}  # the kids' flag, too
    for name in ("basic_", "awmt_"):
        register(f"{name}efficientnet_lite0_garments", plain_efficientnet, **lite)
    register("reid_resnet18_w16_synthetic", reid_resnet, depth=18, width=16, input_size=64,
             classes=40)  # fmt: skip
    digits = {"depth": 18, "version": "v1b", "width": 16, "input_size": 64, "classes": 10}
    for block in ("", *blocks):
        name = f"{block}_resnet18_w16_digits" if block else "resnet18_w16_digits"
        register(name, plain_resnet, attention=block or None, **digits)
    register("vgg11_w8_digits", plain_vgg, depth=11, width=8, hidden=64, input_size=64, classes=10)
    for name in ("", "hoga_"):  # of half the width
        register(f"{name}resnet20_w8_cifar10", small_resnet, width=8, attention=name[:-1] or None)
    searched = f"hoga:{SEARCHED}"
    for name, depth, attention in (
        ("resnet20", 20, None), ("icasc_resnet20", 20, None), ("se_resnet14", 14, "se"),
        ("resnet8", 8, None), ("hoga_resnet8", 8, searched),
    ):  # fmt: skip
        register(f"{name}_w8_digits", small_resnet, depth=depth, width=8, attention=attention)


def _coco() -> None:
    names = ["simple_pose_resnet18_w16_tiny"]
    for infix in ("", "se_", "cbam_", "hoga_"):
        for size in ("resnet50_coco", "resnet18_w16_tiny"):
            ssd = "ssd300" if size.endswith("coco") else "ssd96"
            names += [f"{ssd}_{infix}{size}", f"faster_rcnn_fpn_{infix}{size}"]
        names.append(f"simple_pose_{infix}resnet50_coco")
    for name in names:
        MODELS.register_later(name, COCO)


def _register_all() -> None:
    # Variants of a block, such as eca_rule, are arguments.
    blocks = [name for name in BLOCKS.names() if "_" not in name]
    for fill in (_imagenet_and_attributes, _cifar, _narrow):
        fill(blocks)
    _coco()


_register_all()
