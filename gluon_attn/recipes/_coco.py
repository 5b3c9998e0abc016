"""What recipes on COCO share; validation and test are val2017, so nothing is chosen."""

splits = ("train2017", "val2017", "val2017")
score = "mAP"
keep = "last"
schedule = "step"
lr_min = 0.0
