"""A small ICASC on the synthetic pedestrians, from scratch on a CPU.

Command    python tools/train.py --recipe icasc_synthetic_resnet18 --data-dir SYNTHETIC
Baseline   the same with method=baseline
Hardware   2 CPU cores
Hours      0.05
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   no pre-trained backbone; Adam, cosine schedule; attention losses from the middle of the
           schedule on
"""

method = "icasc"
model = "resnet18_w16_synthetic"
unspecified = "masked"
input_size = 112
resize = 128
crop_min = 96
crop_max = 124
eval_crop = 112
keep = "last"
epochs = 30
batch_size = 32
lr = 0.002
optimizer = "adam"
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
options = {"start_epoch": 15}
