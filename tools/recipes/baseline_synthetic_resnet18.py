"""The plain backbone under the budget of vaa_synthetic_resnet18: the baseline of the demo.

Command    python tools/train_wider.py --recipe baseline_synthetic_resnet18 --data-dir SYNTHETIC
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   no pre-trained backbone; Adam, cosine schedule;
           half the paper's pixel sizes
"""

method = "baseline"
model = "resnet18_w16_synthetic"
unspecified = "masked"
input_size = 112
resize = 128
crop_min = 96
crop_max = 124
eval_crop = 112
epochs = 80
batch_size = 32
lr = 0.002
optimizer = "adam"
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
