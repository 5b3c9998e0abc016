"""Attention blocks in ResNet on ILSVRC2012, as their authors trained them.

Command    gluon-attn train --recipe NAME --data-dir IMAGENET --save-dir RUN
Baseline   the same with model=resnet50_v1b (model=resnet101_v1b)
Hardware   not run (the data are not available)
Hours      not run
Ours       not run
Deviates   Initial weights of the convolutions: variance 2 / fan-in, in the code 2 / fan-out. The
           last epoch is kept: nothing may be chosen on the validation images that are reported.
"""

base = "_imagenet"
method = "baseline"


class se_imagenet_resnet50:
    """SE-ResNet-50 on ILSVRC2012, as the authors of SRM trained it for comparison.

    Paper      top-1 76.80, top-5 93.39 (figure in the README of SRM's code); plain ResNet-50
               75.89, 92.85. The SE authors' own Caffe net: top-1 error 22.37, top-5 error 6.36
    Deviates   The SE paper's own training is not at hand
    """

    model = "se_resnet50"
    epochs = 90
    lr_epochs = (31, 61)


class srm_imagenet_resnet50:
    """SRM-ResNet-50 on ILSVRC2012, 90 epochs.

    Paper      top-1 77.13, top-5 93.51 (figure in the README of SRM's code); plain ResNet-50
               75.89, 92.85
    """

    base = "se_imagenet_resnet50"
    model = "srm_resnet50"


class srm_imagenet_resnet101:
    """SRM-ResNet-101 on ILSVRC2012, 90 epochs.

    Paper      top-1 78.47, top-5 94.20 (figure in the README of SRM's code); plain ResNet-101
               77.40, 93.59. The supplement of DREAL has 78.596 for its own 100 epochs (epochs=100)
    """

    base = "se_imagenet_resnet50"
    model = "srm_resnet101"


class cbam_imagenet_resnet50:
    """CBAM-ResNet-50 on ILSVRC2012, 100 epochs.

    Paper      top-1 77.622, top-5 93.948 (README of the released code)
    """

    model = "cbam_resnet50"


class eca_imagenet_resnet50:
    """ECA-ResNet-50 on ILSVRC2012, 100 epochs, kernels 3, 5, 5, 7.

    Paper      top-1 77.48, top-5 93.68 (README of the released code; another version of it has
               77.42, 93.62)
    """

    model = "eca_resnet50"
