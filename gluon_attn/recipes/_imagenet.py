"""What the recipes on ILSVRC2012 share, unless they say otherwise.

The last epoch is kept: nothing may be chosen on the validation images that are reported.
"""

splits = ("train", "val", "val")
keep = "last"
score = "top1"
input_size = 224
resize = 256
augment = "inception"
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
lr_epochs = (30, 60, 90)
lr_min = 0.0
log_interval = 100
