"""The basic model of the AWMT paper on CelebA: all weights 1, all 20 images of a batch train.

For Market and Duke: --recipe awmt_market_resnet50 adaptive=false batch_size=20.

Command    python tools/train.py --recipe basic_celeba_resnet50 --data-dir CELEBA --save-dir RUN
               --base-params resnet50_v1-0aee57f9.params
Hardware   not run (the data and ImageNet weights are not available)
Hours      not measured
Paper      90.42 mean accuracy over 40 attributes
Ours       not run
Deviates   as awmt_celeba_resnet50; that all 20 images train is an assumption
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
batch_size = 20
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
options = {"adaptive": False, "freeze_batch_norm": True, "fc_bias_lr": 2.0, "no_class": "ignore"}
