"""A small AWMT on synthetic people, from scratch on a CPU.

Command    gluon-attn prepare tasks --out TASKS
           gluon-attn train --recipe awmt_synthetic_resnet18 --data-dir TASKS --save-dir RUN
Hardware   2 CPU cores
Hours      see docs/results_synthetic.md
Paper      none: neither this net nor this data is the paper's
Ours       docs/results_synthetic.md
Deviates   no pre-trained backbone, so batch-norm learns its statistics; Adam, cosine schedule,
           augmentation; dropout 0.1, window 50 of 1,280 iterations
"""

method = "awmt"
model = "resnet18_w16_synthetic"
model_options = {"dropout": 0.1}
unspecified = "masked"
input_size = 48
resize = 56
crop_min = 44
crop_max = 54
eval_crop = 48
iterations_per_epoch = 160
epochs = 8
batch_size = 10
score = "accuracy"
optimizer = "adam"
lr = 3e-3
wd = 5e-4
schedule = "cosine"
lr_min = 0.0
log_interval = 160
options = {"window": 50, "val_batch_size": 10, "freeze_batch_norm": False, "fc_bias_lr": 1.0}
