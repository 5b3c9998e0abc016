"""DREAL on ILSVRC2012, 100 epochs.

Command    gluon-attn train --recipe NAME --data-dir IMAGENET --save-dir RUN
Baseline   the same with method=baseline
Hardware   not run: the data are not available here
Hours      not run
Ours       not run
Deviates   Only the 100 epochs are sourced. Reward, critic, losses, their weights and all settings
           of the training (learning rate, batch size, decay, augmentation, evaluation) are
           assumptions (docs/dreal.md). The last epoch is kept, as nothing may be chosen on the
           validation images that are reported.
"""

base = "_imagenet"
method = "dreal"


class dreal_imagenet_se_resnet50:
    """DREAL on ILSVRC2012, SE-ResNet-50, 100 epochs.

    Paper      accuracy UNKNOWN to us; the supplement shows its attention, critiques and rewards
    """

    model = "se_resnet50"


class dreal_imagenet_cbam_resnet50:
    """DREAL on ILSVRC2012, CBAM-ResNet-50, 100 epochs.

    Paper      accuracy UNKNOWN to us; the supplement shows Grad-CAM maps of it
    """

    model = "cbam_resnet50"


class dreal_imagenet_srm_resnet101:
    """DREAL on ILSVRC2012, SRM-ResNet-101, 100 epochs.

    Ablation   stages=conv2_x, stages=conv3_x, stages=conv4_x or stages=conv5_x behind the command
    Paper      top-1 error 20.474 %, baseline 21.404 %; conv2_x alone 21.132, conv3_x 20.946,
               conv4_x 20.858, conv5_x 20.794 (supplement, Table 1)
    """

    model = "srm_resnet101"
