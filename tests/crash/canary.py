def scan(o): pass
