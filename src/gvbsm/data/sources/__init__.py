"""Where real pictures come from: class folders, arrays, archives, torchvision, the Hub."""
