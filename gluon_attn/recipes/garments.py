"""Clothing dataset: photographs of single garments, 14 classes.

Command    gluon-attn train --recipe NAME --data-dir GARMENTS --save-dir RUN
Baseline   the same with method=baseline
Hardware   one of 2 CPU cores
Paper      none: neither these nets nor this data is the paper's
Ours       docs/results.md
Deviates   another data set; whole photographs are kept (resize = eval_crop); Adam and a cosine
           schedule
"""

dataset = "clothing_dataset"
data_options = {"single_label": True}
score = "top1"
input_size = 112
resize = 128
crop_min = 96
crop_max = 128
eval_crop = 128
batch_size = 32
optimizer = "adam"
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1


class icasc_garments_resnet18:
    """ICASC on garments, ResNet-18 of a quarter of the width from scratch.

    Hours      0.06
    """

    method = "icasc"
    model = "resnet18_w16_garments"
    epochs = 40
    lr = 4e-3
    wd = 5e-4
    options = {"start_epoch": 20}


class dreal_garments_se_resnet18:
    """DREAL on garments, SE-ResNet-18 of a quarter of the width from scratch.

    Hours      0.15
    """

    base = "icasc_garments_resnet18"
    method = "dreal"
    model = "se_resnet18_w16_garments"
    options = {}


class icasc_garments_efficientnet_lite0:
    """ICASC on garments, EfficientNet-Lite0 from ImageNet weights.

    Hours      0.1
    """

    method = "icasc"
    model = "efficientnet_lite0"
    backbone = "efficientnet_lite0"
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    epochs = 6
    lr = 5e-4
    wd = 1e-4
    options = {"start_epoch": 3}


class awmt_garments_efficientnet_lite0:
    """AWMT on the class of garments and the kids' flag, EfficientNet-Lite0 from ImageNet weights.

    Baseline   the same with adaptive=false
    Hours      0.1
    """

    base = "icasc_garments_efficientnet_lite0"
    method = "awmt"
    model = "awmt_efficientnet_lite0"
    data_options = {}
    score = "accuracy"
    epochs = 5
    options = {"window": 23, "val_batch_size": 32}  # one pass over the validation split
