"""DREAL on ILSVRC2012, SE-ResNet-50, 100 epochs.

Command    python tools/train.py --recipe dreal_imagenet_se_resnet50 --data-dir IMAGENET
               --save-dir RUN
Baseline   the same with method=baseline
Hardware   not run: the data are not available here
Hours      not run
Paper      accuracy UNKNOWN to us; the supplement draws its attention, critiques and rewards
Ours       not run
Deviates   Only the 100 epochs are sourced. Reward, critic, losses, their weights and all settings
           of the training (learning rate, batch size, decay, augmentation, evaluation) are
           assumptions (docs/dreal.md). The last epoch is kept, as nothing may be chosen on the
           validation images that are reported.
"""

method = "dreal"
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
