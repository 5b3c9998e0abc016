"""A searched genotype in ResNet-8 of half the width, on single digits of 32 pixels, for a CPU.

Command    python tools/prepare_data.py digits_single --out DIGITS --side 32
           python tools/train.py --recipe hoga_digits_resnet8 --data-dir DIGITS --save-dir RUN
               model_options.attention=hoga:FILE.json
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   12 epochs instead of 500, batch size 32
"""

method = "baseline"
model = "hoga_resnet20_cifar10"
model_options = {"depth": 8, "width": 8}  # one unit a stage
dataset = "auto"
score = "top1"
input_size = 32
resize = 32
augment = "pad"
pad = 2
mirror = False
eval_crop = 32
mean = (127.5, 127.5, 127.5)
std = (64.0, 64.0, 64.0)
init = "msra"
epochs = 12
batch_size = 32
optimizer = "sgd"
lr = 0.05
momentum = 0.9
wd = 0.0005
schedule = "cosine"
lr_min = 0.0
log_interval = 20
