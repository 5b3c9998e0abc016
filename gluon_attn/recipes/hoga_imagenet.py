"""HOGA on ImageNet, 100 epochs (supplement, section 1).

Command    gluon-attn train --recipe NAME --data-dir IMAGENET --save-dir RUN
Others     of ResNet-50, say. none: model=resnet50_v1b, SE: model=se_resnet50,
           CBAM: model=cbam_resnet50
Hardware   paper: unknown; here: not run (the data are not available)
Hours      not run
Paper      the accuracies are not at hand
Ours       not run
Deviates   Assumptions: batch size 256, momentum 0.9, weight decay 1e-4 (the supplement names none
           of them); in ResNet-50 and 101 the block stands behind the 3x3 convolution; the
           augmentation of "[2]" (CBAM) is the usual random area and shape with mirroring; the last
           epoch is kept (docs/autola.md)
"""

base = "_imagenet"
method = "baseline"


class hoga_imagenet_resnet18:
    model = "hoga_resnet18"


class hoga_imagenet_resnet34:
    model = "hoga_resnet34"


class hoga_imagenet_resnet50:
    model = "hoga_resnet50"


class hoga_imagenet_resnet101:
    model = "hoga_resnet101"


class hoga_imagenet_wide_resnet18:
    """HOGA in a ResNet-18 twice as wide on ImageNet, 100 epochs (supplement, section 1).

    Others     none: model=wide_resnet18_2, SE: model_options.attention=se,
               CBAM: model_options.attention=cbam
    Deviates   which wider ResNet is meant is an assumption
    """

    model = "hoga_wide_resnet18_2"
