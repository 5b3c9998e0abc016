"""AWMT on CelebA, ResNet-50, 130,000 iterations.

Command    python tools/train.py --recipe awmt_celeba_resnet50 --data-dir CELEBA --save-dir RUN
               --base-params resnet50_v1-0aee57f9.params
Hardware   paper: one TITAN X; here: not run (the data and ImageNet weights are not available)
Hours      paper: 14
Paper      91.80 mean accuracy over 40 attributes; its basic model 90.42, separate models 89.63
Ours       not run
Deviates   ImageNet mean and std, which Gluon's weights were trained with, instead of a mean image;
           images come in shuffled passes instead of being drawn with replacement; the best epoch by
           validation accuracy is kept (docs/awmt.md)
"""

method = "awmt"
model = "awmt_resnet50"
dataset = "auto"
unspecified = "masked"
input_size = 224
resize = 224
crop_min = 224
crop_max = 224
mirror = False
eval_crop = 224
iterations_per_epoch = 1000
epochs = 130
batch_size = 10
score = "accuracy"
optimizer = "sgd"
lr = 1e-4
momentum = 0.9
wd = 5e-4
schedule = "step"
lr_factor = 0.1
lr_epochs = (70, 100, 120)
lr_min = 0.0
log_interval = 100
options = {
    "window": 200,
    "val_batch_size": 10,
    "adaptive": True,
    "freeze_batch_norm": True,
    "fc_bias_lr": 2.0,
    "no_class": "ignore",
}
