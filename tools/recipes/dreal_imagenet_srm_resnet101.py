"""DREAL on ILSVRC2012, SRM-ResNet-101, 100 epochs.

Command    python tools/train.py --recipe dreal_imagenet_srm_resnet101 --data-dir IMAGENET
               --save-dir RUN
Baseline   the same with method=baseline
Ablation   stages=conv2_x, stages=conv3_x, stages=conv4_x or stages=conv5_x behind the command
Hardware   not run: the data are not available here
Hours      not run
Paper      top-1 error 20.474 %, baseline 21.404 %; conv2_x alone 21.132, conv3_x 20.946,
           conv4_x 20.858, conv5_x 20.794 (supplement, Table 1)
Ours       not run
Deviates   Only the 100 epochs are sourced. Reward, critic, losses, their weights and all settings
           of the training (learning rate, batch size, decay, augmentation, evaluation) are
           assumptions (docs/dreal.md). The last epoch is kept, as nothing may be chosen on the
           validation images that are reported.
"""

method = "dreal"
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
