"""Small nets that come with weights: every method and its baseline, on data anyone can draw.

=====================================  =============================================================
``short_resnet18_w16_synthetic``       ``resnet18_w16_synthetic`` (14 attributes), 30 epochs
``icasc_resnet18_w16_synthetic``       the same 30 epochs with ICASC
``se_resnet18_w16_synthetic``          the same net with SE blocks
``dreal_se_resnet18_w16_synthetic``    trained with DREAL
``basic_resnet18_w16_synthetic``       5 attributes of people at 48 px, equal weights
``awmt_resnet18_w16_synthetic``        trained with AWMT's adaptive weights
``resnet20_w8_digits``                 CIFAR ResNet-20 of half the width, one digit of ten, 32 px
``icasc_resnet20_w8_digits``           trained with ICASC
``se_resnet14_w8_digits``              six units, with SE blocks
``dreal_se_resnet14_w8_digits``        trained with DREAL
``resnet8_w8_digits``                  three units
``hoga_resnet8_w8_digits``             with HOGA of the genotype that a search on this net has found
=====================================  =============================================================

But for AutoLA's the method leaves no trace in the net: names say how the weights were made.
"""

from __future__ import annotations

from model_zoo.factories import plain_resnet
from model_zoo.factories_attention import small_resnet
from model_zoo.names import WIDER_ATTRIBUTES, register

TASKS = 5  # of the controlled experiment of AWMT
# Found by the search with seed 0 of the controlled experiment of AutoLA on single digits.
SEARCHED = (
    "sep_conv_3x3_spatial@0/SE_A_M@0+sep_conv_3x3@1"
    "/sep_conv_3x3@0+skip_connect@1+sep_conv_3x3_spatial@2/SE_A_M@0+CBAM@1+CBAM@2+SE_A_M@3"
)


def _register_all():
    people = {"depth": 18, "width": 16, "input_size": 112, "classes": len(WIDER_ATTRIBUTES)}
    for name in ("short", "icasc"):
        register(f"{name}_resnet18_w16_synthetic", plain_resnet, **people)
    for name in ("se", "dreal_se"):
        register(f"{name}_resnet18_w16_synthetic", plain_resnet, attention="se", **people)
    tasks = dict(people, input_size=48, classes=TASKS)
    for name in ("basic", "awmt"):
        register(f"{name}_resnet18_w16_synthetic", plain_resnet, **tasks)
    digits = {"depth": 20, "width": 8, "classes": 10}
    for name in ("", "icasc_"):
        register(f"{name}resnet20_w8_digits", small_resnet, **digits)
    digits["depth"] = 14
    for name in ("se", "dreal_se"):
        register(f"{name}_resnet14_w8_digits", small_resnet, attention="se", **digits)
    digits["depth"] = 8
    register("resnet8_w8_digits", small_resnet, **digits)
    register("hoga_resnet8_w8_digits", small_resnet, attention=f"hoga:{SEARCHED}", **digits)


_register_all()
