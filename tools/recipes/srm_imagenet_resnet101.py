"""SRM-ResNet-101 on ILSVRC2012, 90 epochs.

Command    python tools/train.py --recipe srm_imagenet_resnet101 --data-dir IMAGENET --save-dir RUN
Baseline   the same with model=resnet101_v1b
Hardware   not run (the data are not available)
Hours      not run
Paper      top-1 78.47, top-5 94.20 (figure in the README of SRM's code); plain ResNet-101
           77.40, 93.59. The supplement of DREAL has 78.596 for its own 100 epochs (epochs=100)
Ours       not run
Deviates   Initial weights of the convolutions: variance 2 / fan-in, in the code 2 / fan-out. The
           last epoch is kept: nothing may be chosen on the validation images that are reported.
"""

method = "baseline"
model = "srm_resnet101"
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
epochs = 90
batch_size = 256
optimizer = "sgd"
lr = 0.1
momentum = 0.9
wd = 1e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (31, 61)
lr_min = 0.0
log_interval = 100
