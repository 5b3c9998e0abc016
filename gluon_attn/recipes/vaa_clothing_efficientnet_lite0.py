"""VAA on Clothing Co-Parsing, on an EfficientNet-Lite0 with ImageNet weights.

Command    gluon-attn train --recipe vaa_clothing_efficientnet_lite0 --data-dir CCP --save-dir RUN
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   another backbone and data set; whole photographs are kept (resize = eval_crop); attention
           modules of a quarter of the filters; Adam and a cosine schedule, as fits a short
           fine-tuning
"""

method = "vaa"
model = "vaa_efficientnet_lite0"
backbone = "efficientnet_lite0"
dataset = "clothing_co_parsing"
input_size = 160
resize = 192
crop_min = 144
crop_max = 192
eval_crop = 192
mean = (127.0, 127.0, 127.0)
std = (128.0, 128.0, 128.0)
epochs = 12
batch_size = 32
lr = 5e-4
optimizer = "adam"
wd = 1e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
options = {"phase0_epochs": 5, "phase1_epochs": 2}
