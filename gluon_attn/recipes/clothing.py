"""Clothing Co-Parsing: whole people in street photographs, 22 attributes.

Command    gluon-attn train --recipe NAME --data-dir CCP --save-dir RUN
Hardware   one of 2 CPU cores
Paper      none: neither these nets nor this data is the paper's
Ours       docs/results.md
Deviates   another backbone and data set; whole photographs are kept (resize = eval_crop); Adam and
           a cosine schedule, as fits a short fine-tuning
"""

method = "vaa"
dataset = "clothing_co_parsing"
batch_size = 32
optimizer = "adam"
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1


class baseline_clothing_efficientnet_lite0:
    """EfficientNet-Lite0 from ImageNet weights on Clothing Co-Parsing.

    Attention blocks: model_options.attention=se, cbam, srm, eca; they start as initialised.

    Hours      0.25
    """

    method = "baseline"
    model = "efficientnet_lite0"
    backbone = "efficientnet_lite0"
    input_size = 224
    resize = 256
    crop_min = 208
    crop_max = 256
    eval_crop = 256
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    epochs = 8
    lr = 8e-4
    wd = 1e-4


class vaa_clothing_efficientnet_lite0:
    """VAA on Clothing Co-Parsing, from the package's EfficientNet-Lite0 that has learnt it.

    Any other run goes with --base-params RUN/best.params.

    Baseline   baseline_clothing_efficientnet_lite0, the same with method=baseline
               model=efficientnet_lite0 epochs=5
    Hours      0.3
    """

    base = "baseline_clothing_efficientnet_lite0"
    method = "vaa"
    model = "vaa_efficientnet_lite0"
    backbone = "efficientnet_lite0_clothing"
    # Six epochs of the new modules, which need larger steps than what is trained already, then five
    # of everything; a cosine each.
    epochs = 11
    lr = 1e-4
    schedule = "cyclic_cosine"
    lr_epochs = (6,)
    warmup_epochs = 0
    keep = "last"
    options = {"phase1_epochs": 6, "modules_lr": 40.0}


class awmt_clothing_efficientnet_lite0:
    """AWMT on eight attributes of Clothing Co-Parsing, EfficientNet-Lite0 from ImageNet weights.

    Baseline   the same with adaptive=false
    Hours      0.1
    """

    base = "baseline_clothing_efficientnet_lite0"
    method = "awmt"
    model = "awmt_efficientnet_lite0"
    # From the commonest to the rarest.
    attributes = ("bag", "pants", "skirt", "dress", "hat", "jeans", "scarf", "shorts")
    input_size = 128
    resize = 144
    crop_min = 112
    crop_max = 144
    eval_crop = 144
    epochs = 8
    lr = 5e-4
    score = "accuracy"
    options = {"window": 16, "val_batch_size": 32}


class vaa_clothing_resnet18:
    """VAA on Clothing Co-Parsing, ResNet-18 of a quarter of the width that has learnt garments.

    Baseline   the same with method=baseline model=resnet18_w16_clothing
    Hours      0.04
    """

    model = "vaa_resnet18_w16_clothing"
    backbone = "resnet18_w16_garments"
    input_size = 112
    resize = 128
    crop_min = 96
    crop_max = 128
    eval_crop = 128
    epochs = 30
    lr = 1e-3
    wd = 5e-4
    options = {"phase0_epochs": 12, "phase1_epochs": 4}
