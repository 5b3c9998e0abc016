"""VAA on Clothing Co-Parsing: whole people in street photographs, 22 attributes.

Command    gluon-attn train --recipe NAME --data-dir CCP --save-dir RUN
Baseline   the same with method=baseline and the model without vaa_
Hardware   2 CPU cores
Hours      see docs/results.md
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


class vaa_clothing_efficientnet_lite0:
    """On an EfficientNet-Lite0 with ImageNet weights; attention of a quarter of the filters."""

    model = "vaa_efficientnet_lite0"
    backbone = "efficientnet_lite0"
    input_size = 224
    resize = 256
    crop_min = 208
    crop_max = 256
    eval_crop = 256
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    # The backbone learns in eight epochs; the six of phase attention, a third as long, go without.
    epochs = 14
    lr = 4e-4
    wd = 1e-4
    options = {"phase0_epochs": 4, "phase1_epochs": 6}


class vaa_clothing_resnet18:
    """On a ResNet-18 of a quarter of the width that has learnt garments; fits into the package."""

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
