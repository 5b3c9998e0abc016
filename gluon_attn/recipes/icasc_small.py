"""Small ICASC nets on synthetic data, from scratch on a CPU.

Baseline   the same with method=baseline
Hardware   2 CPU cores
Hours      0.05
Paper      none: neither this net nor this data is the paper's
Ours       docs/results_synthetic.md
Deviates   no pre-trained backbone; Adam, cosine schedule; attention losses from the middle of the
           schedule on; digits: a CIFAR ResNet of half the width, no mirroring
"""

base = "_small"
method = "icasc"


class icasc_synthetic_resnet18:
    """A small ICASC on the synthetic pedestrians, from scratch on a CPU.

    Command    gluon-attn prepare synthetic --out SYNTHETIC
               gluon-attn train --recipe icasc_synthetic_resnet18 --data-dir SYNTHETIC
                   --save-dir RUN
    """

    model = "resnet18_w16_synthetic"
    keep = "last"
    epochs = 30
    options = {"start_epoch": 15}


class icasc_digits_resnet14:
    """A small ICASC on scenes of several handwritten digits, from scratch on a CPU.

    Command    gluon-attn prepare digits --out DIGITS --train 2000 --val 300 --test 500
               gluon-attn train --recipe icasc_digits_resnet14 --data-dir DIGITS --save-dir RUN
    Ours       docs/results_synthetic.md; weights of 0.1 cost no mAP, those of the paper (1) do:
               weight_as_inner=0.1 weight_as_last=0.1 weight_ac=0.1
    """

    model = "cifar_resnet20_cifar10"
    model_options = {"depth": 14, "width": 8}
    mirror = False
    # Scenes of 128 pixels. The plain net has a validation mAP of 51 % when the attention losses
    # begin, and of 60 % at the end.
    input_size = 40
    resize = 46
    crop_min = 40
    crop_max = 46
    eval_crop = 43
    keep = "last"
    epochs = 12
    batch_size = 64
    lr = 0.004
    options = {"start_epoch": 6}


class icasc_digits_single_resnet20:
    """A small ICASC on scenes of one handwritten digit each, from scratch on a CPU.

    Command    gluon-attn prepare digits_single --out DIGITS --side 36
                   --train 2000 --val 400 --test 1000
               gluon-attn train --recipe icasc_digits_single_resnet20 --data-dir DIGITS
                   --save-dir RUN
    """

    model = "cifar_resnet20_cifar10"
    model_options = {"width": 8}
    mirror = False
    # Digits of half to two thirds of the page, maps of 16 x 16 and 8 x 8: with less, a net
    # overfits its training scenes.
    input_size = 32
    resize = 36
    crop_min = 32
    crop_max = 36
    eval_crop = 34
    score = "top1"
    epochs = 12
    options = {"start_epoch": 6}
