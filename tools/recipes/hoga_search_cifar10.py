"""The search of AutoLA on CIFAR-10, ResNet-20, first order, 50 epochs.

Command    python tools/search.py --recipe hoga_search_cifar10 --data-dir CIFAR --save-dir RUN
Others     second_order=true
Hardware   paper: less than one GPU day; here: not run (the data are not available)
Hours      not run
Paper      the genotype autola_cifar10 (gluon_attn/papers/autola/genotype.py)
Ours       not run
Deviates   ResNet-20 as in the paper: the authors' search script builds a wider net of four stages;
           the halves are drawn by the seed instead of cut in the middle; the cosine is read in the
           middle of each epoch (docs/autola.md)
"""

method = "autola"
model = "autola_search_resnet20"
dataset = "auto"
splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 32
resize = 32
augment = "pad"
pad = 4
mirror = True
eval_crop = 32
mean = (125.3, 123.0, 113.9)
std = (63.0, 62.1, 66.7)
init = "msra"
epochs = 50
batch_size = 128
optimizer = "sgd"
lr = 0.025
momentum = 0.9
wd = 0.0005
schedule = "cosine"
lr_min = 0.0001
seed = 2
log_interval = 50
options = {
    "second_order": False,
    "alpha_lr": 0.003,
    "alpha_beta1": 0.5,
    "alpha_beta2": 0.999,
    "alpha_wd": 0.001,
    "clip": 5.0,
}
