"""A small search on single digits of 32 pixels in ResNet-8 of half the width, for a CPU.

Command    python tools/prepare_data.py digits_single --out DIGITS --side 32
           python tools/search.py --recipe hoga_search_digits --data-dir DIGITS --save-dir RUN
               --compare-with hoga_digits_resnet8
Hardware   2 CPU cores
Hours      see docs/results.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results.md
Deviates   12 epochs instead of 50, larger steps of alpha
"""

method = "autola"
model = "autola_search_resnet20"
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
keep = "last"
epochs = 12
batch_size = 32
optimizer = "sgd"
lr = 0.05
momentum = 0.9
wd = 0.0005
schedule = "cosine"
lr_min = 0.0001
seed = 0
log_interval = 20
options = {
    "second_order": False,
    "alpha_lr": 0.01,
    "alpha_beta1": 0.5,
    "alpha_beta2": 0.999,
    "alpha_wd": 0.001,
    "clip": 5.0,
}
