package kinds

// wire gives a row its funcs; it is called once for every row of a new table.
func wire(k *Kind) {}
