"""A small SE net with DREAL on scenes of handwritten digits, one label each, on a CPU.

Command    python tools/prepare_data.py digits_single --out DIGITS
           python tools/train.py --recipe dreal_digits_resnet18 --data-dir DIGITS --save-dir RUN
Baseline   the same with method=baseline
Ablation   stages=conv2_x, stages=conv3_x, stages=conv4_x or stages=conv5_x behind the command
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       see docs/results.md
Deviates   a ResNet-18 of a quarter of the width at 64 pixels; Adam, cosine schedule; chosen on
           validation data; digits are not mirrored
"""

method = "dreal"
model = "se_resnet18_w16_digits"
input_size = 64
resize = 72
crop_min = 60
crop_max = 72
eval_crop = 68
mirror = False
epochs = 30
batch_size = 32
score = "top1"
optimizer = "adam"
lr = 0.002
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
