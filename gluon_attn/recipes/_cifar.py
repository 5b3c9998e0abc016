"""What recipes on images of 32 pixels share; the last epoch is kept, so nothing is chosen."""

splits = ("trainval", "test", "test")
keep = "last"
score = "top1"
input_size = 32
resize = 32
augment = "pad"
pad = 4
eval_crop = 32
init = "msra"
optimizer = "sgd"
lr = 0.1
momentum = 0.9
wd = 5e-4
lr_min = 0.0
log_interval = 100
