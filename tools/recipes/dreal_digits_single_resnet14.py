"""A small SE net with DREAL on scenes of one handwritten digit each, on a CPU.

Command    python tools/prepare_data.py digits_single --out DIGITS --side 36
               --train 2000 --val 400 --test 1000
           python tools/train.py --recipe dreal_digits_single_resnet14 --data-dir DIGITS
               --save-dir RUN
Baseline   the same with method=baseline
Ablation   stages=conv2_x, stages=conv3_x or stages=conv4_x behind the command
Hardware   2 CPU cores
Hours      0.1
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   a CIFAR SE-ResNet-14 of half the width; Adam, cosine schedule; chosen on validation
           data; digits are not mirrored
"""

method = "dreal"
model = "se_resnet20_cifar10"
model_options = {"depth": 14, "width": 8}
mirror = False
input_size = 32
resize = 36
crop_min = 32
crop_max = 36
eval_crop = 34
epochs = 12
batch_size = 32
score = "top1"
optimizer = "adam"
lr = 0.002
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
warmup_epochs = 1
