"""SE-ResNet-50 on ILSVRC2012, as the authors of SRM trained it for comparison.

Command    python tools/train.py --recipe se_imagenet_resnet50 --data-dir IMAGENET --save-dir RUN
Baseline   the same with model=resnet50_v1b
Hardware   not run (the data are not available)
Hours      not run
Paper      top-1 76.80, top-5 93.39 (figure in the README of SRM's code); plain ResNet-50
           75.89, 92.85. The SE authors' own Caffe net: top-1 error 22.37, top-5 error 6.36
Ours       not run
Deviates   The SE paper's own training is not at hand. Initial weights of the convolutions:
           variance 2 / fan-in, in the code 2 / fan-out. The last epoch is kept: nothing may be
           chosen on the validation images that are reported.
"""

method = "baseline"
model = "se_resnet50"
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
