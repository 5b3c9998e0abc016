"""A small ICASC on scenes of several handwritten digits, from scratch on a CPU.

Command    python tools/prepare_data.py digits --out DIGITS --train 2000 --val 300 --test 500
           python tools/train.py --recipe icasc_digits_resnet14 --data-dir DIGITS --save-dir RUN
Baseline   the same with method=baseline
Hardware   2 CPU cores
Hours      0.05
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md; weights of 0.1 cost no mAP, those of the paper (1) do:
           weight_as_inner=0.1 weight_as_last=0.1 weight_ac=0.1
Deviates   a CIFAR ResNet-14 of half the width, no pre-trained backbone; Adam, cosine schedule;
           attention losses from the middle of the schedule on; digits are not mirrored
"""

method = "icasc"
model = "cifar_resnet20_cifar10"
model_options = {"depth": 14, "width": 8}
unspecified = "masked"
mirror = False
# Scenes of 128 pixels. The plain net has a validation mAP of 51 % when the attention losses begin,
# and of 60 % at the end.
input_size = 40
resize = 46
crop_min = 40
crop_max = 46
eval_crop = 43
keep = "last"
epochs = 12
batch_size = 64
lr = 0.004
optimizer = "adam"
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
options = {"start_epoch": 6}
