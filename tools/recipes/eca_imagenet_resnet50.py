"""ECA-ResNet-50 on ILSVRC2012, 100 epochs, kernels 3, 5, 5, 7.

Command    python tools/train.py --recipe eca_imagenet_resnet50 --data-dir IMAGENET --save-dir RUN
Baseline   the same with model=resnet50_v1b
Hardware   not run (the data are not available)
Hours      not run
Paper      top-1 77.48, top-5 93.68 (README of the released code; another version
           of it has 77.42, 93.62)
Ours       not run
Deviates   Initial weights of the convolutions: variance 2 / fan-in, in the code 2 / fan-out. The
           last epoch is kept: nothing may be chosen on the validation images that are reported.
"""

method = "baseline"
model = "eca_resnet50"
dataset = "auto"
splits = ("train", "val", "val")
keep = "last"
score = "top1"
input_size = 224
resize = 256
augment = "inception"
area_min = 0.08
mirror = True
eval_crop = 224
keep_aspect = True
init = "msra"
epochs = 100
batch_size = 256
optimizer = "sgd"
lr = 0.1
momentum = 0.9
wd = 1e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (30, 60, 90)
lr_min = 0.0
log_interval = 100
