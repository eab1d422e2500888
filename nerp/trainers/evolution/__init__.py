"""ProAPO's search over written prompts: functions of frozen features, without a trainer in them."""
