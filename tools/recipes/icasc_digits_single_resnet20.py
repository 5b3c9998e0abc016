"""A small ICASC on scenes of one handwritten digit each, from scratch on a CPU.

Command    python tools/prepare_data.py digits_single --out DIGITS --side 36
               --train 2000 --val 400 --test 1000
           python tools/train.py --recipe icasc_digits_single_resnet20 --data-dir DIGITS
               --save-dir RUN
Baseline   the same with method=baseline
Hardware   2 CPU cores
Hours      0.05
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   a CIFAR ResNet-20 of half the width, no pre-trained backbone; Adam, cosine schedule;
           attention losses from the middle of the schedule on; digits are not mirrored
"""

method = "icasc"
model = "cifar_resnet20_cifar10"
model_options = {"width": 8}
unspecified = "masked"
mirror = False
# Digits of half to two thirds of the page, maps of 16 x 16 and 8 x 8: with less, a net learns its
# training scenes by heart.
input_size = 32
resize = 36
crop_min = 32
crop_max = 36
eval_crop = 34
score = "top1"
epochs = 12
batch_size = 32
lr = 0.002
optimizer = "adam"
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
options = {"start_epoch": 6}
